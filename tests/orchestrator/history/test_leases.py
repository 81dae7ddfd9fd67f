import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import event, text, update

from orchestrator.errors import DatabaseError, LeaseLostError
from orchestrator.history.database import schema
from orchestrator.history.database.database import Database
from orchestrator.history.lease_owners import this_process
from orchestrator.history.leases import Lease, LeaseKeeper, Leases, require_lease

RESOURCE = "run:r1"


def acquired(leases: Leases, *, duration_s: float = 60.0) -> Lease:
    lease = leases.acquire(RESOURCE, duration_s=duration_s)
    assert lease is not None
    return lease


def test_two_owners_exclude_each_other_and_epochs_rise(database: Database) -> None:
    one, two = Leases(database), Leases(database)
    first = acquired(one)
    assert two.acquire(RESOURCE) is None
    assert one.acquire(RESOURCE) is None  # a second holder in the same process is another holder
    assert two.holder(RESOURCE) == replace(first, duration_s=60.0)
    one.release(first)
    assert two.holder(RESOURCE) is None
    second = acquired(two)
    assert second.epoch == first.epoch + 1


def test_of_many_concurrent_requests_one_gets_the_lease(database: Database) -> None:
    Leases(database).release(acquired(Leases(database)))
    got: list[Lease | None] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        leases = Leases(database)
        barrier.wait()  # all find the row of a lease that was released
        got.append(leases.acquire(RESOURCE))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([lease for lease in got if lease is not None]) == 1
    assert len(got) == 8


def test_a_lease_whose_answer_was_lost_is_given_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database repeats the transaction: it finds the row of its own first try."""
    write = database.write
    leases = Leases(database)
    leases.raise_epoch(RESOURCE, 3)
    monkeypatch.setattr(database, "write", lambda work: [write(work), write(work)][1])
    assert acquired(leases).epoch == 4
    assert leases.acquire(RESOURCE) is None


def test_an_expired_lease_can_be_acquired_but_not_renewed_or_released(database: Database) -> None:
    one, two = Leases(database), Leases(database)
    first = acquired(one, duration_s=0.2)
    time.sleep(0.3)
    with pytest.raises(LeaseLostError, match=r"run:r1: expired"):
        one.renew(first)
    second = acquired(two)
    one.release(first)
    with pytest.raises(LeaseLostError):
        one.renew(first)
    assert two.holder(RESOURCE) is not None
    assert two.renew(second).expires_at >= second.expires_at


def shift_sqlite_clock(database: Database, days: list[float]) -> None:
    """Make the database's clock, and nothing else, run ahead by `days[0]`."""

    def replace_julianday(connection: object, *_rest: object) -> None:
        connection.create_function("julianday", 1, lambda _now: time.time() / 86400.0 + 2440587.5 + days[0])

    event.listen(database._engine, "connect", replace_julianday)
    database._engine.dispose()


def test_expiry_follows_the_clock_of_sqlite(tmp_path: os.PathLike[str]) -> None:
    database = Database(f"{os.fspath(tmp_path)}/index.db")
    days = [0.0]
    shift_sqlite_clock(database, days)
    one, two = Leases(database), Leases(database)
    first = acquired(one)
    days[0] = 50.0 / 86400  # our own clock has not moved
    assert two.acquire(RESOURCE) is None
    days[0] = 70.0 / 86400
    with pytest.raises(LeaseLostError):
        one.renew(first)
    assert acquired(two).epoch == 2


def test_a_lease_is_free_at_the_moment_when_it_expires(tmp_path: os.PathLike[str]) -> None:
    database = Database(f"{os.fspath(tmp_path)}/index.db")

    def stop_julianday(connection: object, *_rest: object) -> None:
        connection.create_function("julianday", 1, lambda _now: 2461000.5)

    event.listen(database._engine, "connect", stop_julianday)
    database._engine.dispose()
    leases = Leases(database)
    lease = acquired(leases, duration_s=0.0)  # its end is now
    assert leases.holder(RESOURCE) is None
    with pytest.raises(LeaseLostError):
        leases.renew(lease)
    last = leases.last_holder(RESOURCE)
    assert last is not None
    assert last.is_expired
    assert acquired(Leases(database)).epoch == 2


def test_expiry_follows_the_clock_of_postgresql(postgresql_url: str) -> None:
    plain = Database(postgresql_url)
    first = acquired(Leases(plain))
    ahead = "create function ahead.clock_timestamp() returns timestamptz language sql volatile as"
    plain.write(lambda connection: connection.execute(text("create schema ahead")))
    plain.write(
        lambda connection: connection.execute(text(f"{ahead} $$ select pg_catalog.clock_timestamp() + '70 s' $$"))
    )
    later = Database(postgresql_url.replace("search_path%3D", "search_path%3Dahead,pg_catalog,"))
    assert Leases(plain).acquire(RESOURCE) is None
    assert acquired(Leases(later)).epoch == first.epoch + 1


HOLD = """
import sys, time
from orchestrator.history.database.database import Database
from orchestrator.history.leases import Leases
assert Leases(Database(sys.argv[1])).acquire("run:r1", duration_s=3600) is not None
print("held", flush=True)
time.sleep(60)
"""


def test_the_lease_of_a_killed_process_is_taken_over_at_once(database_url: str) -> None:
    database = Database(database_url)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, database_url], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert Leases(database).acquire(RESOURCE) is None
        holder.send_signal(signal.SIGSTOP)  # it hangs, but it lives
        assert Leases(database).acquire(RESOURCE) is None
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until `wait`
        assert acquired(Leases(database)).epoch == 2
    finally:
        holder.kill()
        holder.wait()


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)


def renewed_until(leases: Leases) -> float:
    holder = leases.holder(RESOURCE)
    return 0.0 if holder is None else holder.expires_at


def expire(database: Database) -> None:
    database.write(lambda connection: connection.execute(update(schema.leases).values(expires_at=0.0)))


def test_a_kept_lease_outlives_its_duration(database: Database) -> None:
    leases = Leases(database)
    with LeaseKeeper(leases) as keeper:
        long = leases.acquire("run:long", duration_s=3600.0)
        assert long is not None
        keeper.keep(long)
        lease = acquired(leases, duration_s=2.0)
        lost = keeper.keep(lease)
        wait_until(lambda: renewed_until(leases) > lease.expires_at + lease.duration_s)
        assert not lost.is_set()
        assert Leases(database).acquire(RESOURCE) is None
        keeper.release(lease)
        assert acquired(Leases(database)).epoch == 2


def test_the_holder_is_stopped_at_two_thirds_while_the_database_hangs(tmp_path: os.PathLike[str]) -> None:
    database = Database(f"{os.fspath(tmp_path)}/index.db")
    leases = Leases(database)
    losses: list[tuple[float, Lease]] = []
    with LeaseKeeper(leases) as keeper:
        lease = acquired(leases, duration_s=3.0)
        started = time.monotonic()
        lost = keeper.keep(lease, lambda lease: losses.append((time.monotonic() - started, lease)))

        def hang(_connection: object) -> None:
            wait_until(lambda: bool(losses))
            time.sleep(0.1)

        database.write(hang)  # blocks other writers, so renewals wait
        assert lost.is_set()
    assert len(losses) == 1
    assert 1.9 < losses[0][0] < 3.0  # two thirds of 3 s, checked every 0.15 s; before the lease is free
    assert losses[0][1].resource == RESOURCE


class Away(Leases):
    """Leases of a database that does not answer while `away` is set."""

    away = False
    renewals = 0

    def renew(self, lease: Lease) -> Lease:
        self.renewals += 1
        if self.away:
            raise DatabaseError("connection refused")
        return super().renew(lease)

    def revive(self, lease: Lease) -> Lease:
        if self.away:
            raise DatabaseError("connection refused")
        return super().revive(lease)


def test_a_lease_is_renewed_from_a_quarter_on_and_given_up_at_two_thirds(database: Database) -> None:
    leases, clock = Away(database), [0.0]
    with LeaseKeeper(leases, clock=lambda: clock[0]) as keeper:
        lease = acquired(leases, duration_s=60.0)
        lost = keeper.keep(lease)
        clock[0] = 14.9
        keeper._renew_due()
        assert leases.renewals == 1  # by `keep`
        clock[0] = 15.0
        keeper._renew_due()
        assert leases.renewals >= 2  # its own thread may have been faster
        leases.away = True
        clock[0] = 15.0 + 39.9
        keeper._renew_due()
        keeper._watch()
        assert not lost.is_set()
        clock[0] = 15.0 + 40.0
        keeper._watch()
        assert lost.is_set()


def test_between_two_looks_at_the_clock_nothing_runs(database: Database) -> None:
    leases, looks = Leases(database), [0]

    def clock() -> float:
        looks[0] += 1
        return 0.0

    with LeaseKeeper(leases, clock=clock) as keeper:
        keeper.keep(acquired(leases, duration_s=60.0))
        time.sleep(0.3)
    assert looks[0] < 50


def test_closing_waits_for_a_renewal_that_is_under_way(database: Database) -> None:
    asked, answer = threading.Event(), threading.Event()

    class Slow(Away):
        def renew(self, lease: Lease) -> Lease:
            if self.renewals:
                asked.set()
                answer.wait(60.0)
            return super().renew(lease)

    leases, clock = Slow(database), [0.0]
    keeper = LeaseKeeper(leases, clock=lambda: clock[0])
    keeper.keep(acquired(leases, duration_s=6.0))
    clock[0] = 2.0
    assert asked.wait(60.0)
    closing = threading.Thread(target=keeper.close)
    closing.start()
    closing.join(0.5)
    assert closing.is_alive()
    answer.set()
    closing.join()


def test_a_lease_taken_away_is_noticed_at_the_next_renewal(database: Database) -> None:
    leases = Leases(database)
    with LeaseKeeper(leases) as keeper:
        lease = acquired(leases, duration_s=60.0)
        clock = [0.0]
        keeper._clock = lambda: clock[0]
        lost = keeper.keep(lease)
        leases.release(lease)
        assert Leases(database).acquire(RESOURCE) is not None
        clock[0] = 16.0  # past a quarter of the lease, far from two thirds
        assert lost.wait(60.0)


def test_a_lease_lost_before_it_is_kept_is_reported(database: Database) -> None:
    leases = Leases(database)
    with LeaseKeeper(leases) as keeper:
        lease = acquired(leases)
        leases.release(lease)
        assert keeper.keep(lease).is_set()


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_lease_kept_until_it_is_taken_outlives_a_database_that_is_away(
    database: Database, is_taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    leases = Away(database)
    with LeaseKeeper(leases) as keeper:
        lease, clock = acquired(leases, duration_s=4.0), [0.0]
        keeper._clock = lambda: clock[0]
        lost = keeper.keep(lease, until_taken=True)
        leases.away = True
        expire(database)
        clock[0] = lease.duration_s + 1.0
        wait_until(lambda: "its jobs keep running" in caplog.text)
        time.sleep(0.5)  # it looks again every 0.2 s
        assert caplog.text.count("its jobs keep running") == 1
        assert not lost.is_set()
        if is_taken:
            assert acquired(Leases(database)).epoch == lease.epoch + 1
        leases.away = False
        if is_taken:
            assert lost.wait(60.0)
        else:
            wait_until(lambda: Leases(database).holder(RESOURCE) is not None)
            assert acquired_by_nobody_else(database)
            leases.away = True
            clock[0] += lease.duration_s
            wait_until(lambda: caplog.text.count("its jobs keep running") == 2)
            assert not lost.is_set()


def test_a_machine_was_seen_when_one_of_its_processes_last_renewed(database: Database) -> None:
    elsewhere = replace(this_process(), boot="another", host="host7")
    assert Leases(database).machine_seen(elsewhere.text()) == ("host7", 0.0, 0.0)  # never
    assert Leases(database).machine_seen(this_process().text()) == ("", 0.0, 0.0)
    assert Leases(database).machine_seen("by hand") == ("", 0.0, 0.0)
    leases = Leases(database, owner=elsewhere)
    first, second = leases.acquire("run:a"), leases.acquire("run:b")
    assert first is not None
    assert second is not None
    assert Leases(database).acquire("run:c") is not None
    now = second.expires_at - second.duration_s
    name, since_s, at = Leases(database).machine_seen(elsewhere.text())
    assert (name, at) == ("host7", pytest.approx(now, abs=0.01))
    assert 0.0 <= since_s < 60.0


def acquired_by_nobody_else(database: Database) -> bool:
    return Leases(database).acquire(RESOURCE) is None


def test_the_next_epoch_is_above_one_that_the_store_knows(database: Database) -> None:
    """As after a fail-over to a replica that lags, or a rebuilt index."""
    leases = Leases(database)
    assert leases.raise_epoch(RESOURCE, 7) == 0
    lease = acquired(leases)
    assert lease.epoch == 8
    assert leases.raise_epoch(RESOURCE, 7) == 8
    assert leases.renew(lease).epoch == 8
    leases.raise_epoch(RESOURCE, 9)  # somebody holds an epoch that this database never saw
    with pytest.raises(LeaseLostError):
        leases.renew(lease)


def test_after_closing_no_thread_renews_or_watches(database: Database) -> None:
    leases = Leases(database)
    with LeaseKeeper(leases) as keeper:
        lease = acquired(leases, duration_s=60.0)
        keeper.keep(lease)
        threads = [thread for thread in threading.enumerate() if thread in keeper._threads]
        assert len(threads) == 2
        assert all(thread.daemon for thread in threads)  # a process that ends waits for none of them
    wait_until(lambda: not any(thread.is_alive() for thread in threads))


def test_a_change_that_needs_a_lease_is_made_while_it_is_live_only(database: Database) -> None:
    leases = Leases(database)
    lease = acquired(leases)
    database.write(lambda connection: require_lease(connection, lease))
    for other in (replace(lease, epoch=2), replace(lease, owner="another"), replace(lease, resource="run:r2")):
        with pytest.raises(LeaseLostError, match=f"lease {other.resource}: expired or was taken over; start again"):
            database.write(lambda connection, other=other: require_lease(connection, other))
    leases.release(lease)
    with pytest.raises(LeaseLostError):
        database.write(lambda connection: require_lease(connection, lease))


def test_a_lease_is_unreleased_until_its_holder_or_the_next_one_releases_it(database: Database) -> None:
    leases = Leases(database)
    held, freed = leases.acquire("artifact:a_b"), leases.acquire("artifact:freed")
    assert held is not None
    assert freed is not None
    assert leases.acquire("artifacts") is not None
    leases.release(freed)
    expire(database)
    assert leases.unreleased("artifact:") == {"artifact:a_b"}
    assert leases.unreleased("artifact:a%") == set()
    last = leases.last_holder("artifact:a_b")
    assert last is not None
    assert (last.lease.resource, last.lease.epoch, last.is_expired) == ("artifact:a_b", 1, True)
    assert leases.last_holder("artifact:freed") is None
    leases.release(held, forget=True)
    assert leases.unreleased("artifact:") == set()
    again = leases.acquire("artifact:a_b")
    assert again is not None
    assert again.epoch == 1  # its count was forgotten
    last = leases.last_holder("artifact:a_b")
    assert last is not None
    assert (last.lease, last.is_expired) == (again, False)


class CountingLeases(Leases):
    renewals = 0

    def renew(self, lease: Lease) -> Lease:
        self.renewals += 1
        return super().renew(lease)


@pytest.mark.parametrize(("age_s", "renewals"), [(1.0, 0), (16.0, 1)])
def test_a_lease_just_acquired_is_kept_without_a_renewal(database: Database, age_s: float, renewals: int) -> None:
    leases = CountingLeases(database)
    with LeaseKeeper(leases) as keeper:
        clock = [0.0]
        keeper._clock = lambda: clock[0]
        asked_at, lease = keeper.now(), acquired(leases, duration_s=60.0)
        clock[0] = age_s
        keeper.keep(lease, asked_at=asked_at)
        assert leases.renewals == renewals
        assert keeper._kept[RESOURCE].renewed_at == (age_s if renewals else 0.0)  # counted from before it was asked for
