"""Claims on a pool: drivers and servers that decide for one another, on both databases."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import update

from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import claims as table
from orchestrator.queue.amounts import Amounts
from orchestrator.queue.claims import CLAIM_S, Claims, Pool, forget_stop, stop_reason
from orchestrator.queue.order import Request

POOL = Pool(name="ray head:6379", capacity=Amounts(cpus=8, gpus=2, memory_gib=64))


def stage(run: str, stage_id: str = "train", *, gpus: float = 0, cpus: float = 1, priority: int = 0, at: float = 0.0,
          person: str = "ada") -> Request:  # fmt: skip
    need = Amounts(cpus=cpus, gpus=gpus)
    return Request(run_id=run, stage_id=stage_id, person=person, priority=priority, need=need, asked_at=at)


@pytest.fixture
def claims(database_url: str) -> Claims:
    return Claims(Database(database_url), POOL)


def database_of(claims: Claims) -> Database:
    return claims._database


def let_pass(claims: Claims, run: str, seconds: float) -> None:
    """Nobody has renewed the claims of a run for this long."""
    change = update(table).where(table.c.run_id == run).values(seen_at=table.c.seen_at - seconds)
    database_of(claims).write(lambda connection: connection.execute(change))


def test_runs_share_what_there_is_and_the_next_one_gets_what_is_given_back(claims: Claims) -> None:
    assert claims.ask(stage("a", gpus=2), may_yield=False) == ""
    assert claims.ask(stage("b", gpus=1), may_yield=False) == "1 GPUs: 2 of 2 are taken"
    assert claims.ask(stage("c", cpus=4), may_yield=False) == "", "what it needs is free"
    assert claims.ask(stage("a", gpus=2), may_yield=False) == "", "it has it already"
    claims.release("a", "train")
    assert claims.ask(stage("b", gpus=1), may_yield=False) == ""


def test_a_driver_that_died_gives_its_room_back(claims: Claims) -> None:
    claims.ask(stage("a", gpus=2), may_yield=False)
    let_pass(claims, "a", CLAIM_S / 2)
    claims.renew("a")
    let_pass(claims, "a", CLAIM_S / 2)
    assert claims.ask(stage("b", gpus=1), may_yield=False)
    let_pass(claims, "a", CLAIM_S)
    assert claims.ask(stage("b", gpus=1), may_yield=False) == ""


def test_queued_runs_start_when_there_is_room_and_keep_their_place(claims: Claims) -> None:
    waiting = [stage("a", "", gpus=2, at=1), stage("b", "", gpus=2, at=2)]
    assert claims.queue(waiting) == ["a"]
    assert claims.queue(waiting) == ["a"], "another server, or the same one again"
    assert claims.ask(stage("a", "train", gpus=2, at=1), may_yield=True) == ""
    assert claims.queue(waiting[1:]) == []
    claims.release("a")
    assert claims.queue(waiting[1:]) == ["b"]


def test_a_run_with_a_driver_waits_behind_a_queued_one_of_higher_priority(claims: Claims) -> None:
    claims.ask(stage("busy", gpus=1), may_yield=False)
    assert claims.queue([stage("urgent", "", gpus=2, priority=3, at=-10_000)]) == []
    assert claims.ask(stage("low", gpus=1), may_yield=False) == "room that is kept for one that goes first"


def test_a_higher_priority_asks_a_queued_run_to_stop_and_no_run_of_the_foreground(claims: Claims) -> None:
    claims.ask(stage("foreground", gpus=1), may_yield=False)
    claims.ask(stage("queued", gpus=1), may_yield=True)
    assert claims.ask(stage("urgent", gpus=1, priority=5), may_yield=True) == "1 GPUs: 2 of 2 are taken"
    assert stop_reason(database_of(claims), "queued") == "made room for run urgent (priority 5)"
    assert stop_reason(database_of(claims), "foreground") == ""
    claims.release("queued")
    assert claims.ask(stage("urgent", gpus=1, priority=5), may_yield=True) == ""
    forget_stop(database_of(claims), "queued")
    assert stop_reason(database_of(claims), "queued") == ""


def test_a_job_that_outlived_its_driver_keeps_its_room(claims: Claims) -> None:
    claims.ask(stage("other", gpus=2), may_yield=False)
    assert claims.ask(stage("a", gpus=2), may_yield=False, is_at_work=True) == ""


def test_the_first_run_finds_out_how_large_a_cluster_is(database_url: str) -> None:
    database = Database(database_url)
    unknown = Claims(database, Pool(name=POOL.name))
    waiting = [stage(name, "", gpus=1, at=number) for number, name in enumerate("abc")]
    assert unknown.queue(waiting) == ["a"]
    assert Claims(database, POOL).ask(stage("a", gpus=1), may_yield=True) == ""
    assert unknown.queue(waiting[1:]) == ["b"]


def test_a_driver_gets_the_room_that_was_kept_for_its_run(claims: Claims) -> None:
    """However long it took to start, and whoever else used less meanwhile."""
    waiting = [stage("a", "", gpus=2, at=1), stage("b", "", gpus=1, at=2, person="bob")]
    assert claims.queue(waiting) == ["a"]
    change = update(table).where(table.c.run_id == "a").values(granted_at=table.c.granted_at - 60.0)
    database_of(claims).write(lambda connection: connection.execute(change))
    assert claims.ask(stage("a", gpus=2, at=1), may_yield=True) == ""
    assert claims.queue(waiting[1:]) == []


def test_what_a_person_used_counts_after_it_was_given_back(claims: Claims) -> None:
    claims.ask(stage("a", gpus=2, person="ada"), may_yield=False)
    change = update(table).values(granted_at=table.c.granted_at - 3600.0)
    database_of(claims).write(lambda connection: connection.execute(change))
    claims.release("a")
    assert claims.view().used["ada"] == pytest.approx(3600.0, rel=0.01)
    waiting = [stage("a2", "", gpus=2, person="ada", at=1), stage("b", "", gpus=2, person="bob", at=2)]
    assert claims.queue(waiting) == ["b"]


def test_many_drivers_at_once_never_hold_more_than_there_is(claims: Claims) -> None:
    granted: list[str] = []

    def drive(name: str) -> None:
        if not claims.ask(stage(name, gpus=1), may_yield=False):
            granted.append(name)

    def in_threads(work: Callable[[str], None]) -> None:
        threads = [threading.Thread(target=work, args=(f"r{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    in_threads(drive)
    holders = claims.view().holders
    assert len(holders) == 2
    assert set(granted) <= {holder.request.run_id for holder in holders}
