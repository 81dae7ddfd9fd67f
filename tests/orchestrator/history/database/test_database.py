import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as SqlalchemyTimeoutError

from orchestrator.errors import DatabaseError
from orchestrator.history.database.database import Database, _is_transient
from orchestrator.history.database.schema import database_now, source_digests
from orchestrator.planning.source_digests import DatabaseDigestCache, FileStamp


def now(database: Database) -> float:
    return database.read(lambda connection: connection.execute(select(database_now())).scalar_one())


def test_the_clock_is_the_databases_and_moves(database: Database) -> None:
    before = time.time()
    first = now(database)
    time.sleep(0.02)
    assert now(database) > first
    assert abs(first - before) < 5.0  # same machine here; both count from 1970 in UTC


def test_the_clock_of_postgresql_moves_within_a_transaction(postgresql_url: str) -> None:
    database = Database(postgresql_url)

    def work(connection: Connection) -> float:
        first: float = connection.execute(select(database_now())).scalar_one()
        time.sleep(0.02)
        return connection.execute(select(database_now())).scalar_one() - first

    assert database.read(work) > 0.01


def test_opening_twice_at_once_creates_the_tables_once(database_url: str) -> None:
    problems: list[BaseException] = []

    def open_one() -> None:
        try:
            Database(database_url).close()
        except DatabaseError as error:
            problems.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_lock_that_sqlite_refuses_without_waiting_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite does so when several processes open a new file at once, despite its lock timeout."""
    refusals = iter(range(2))

    def refuse_twice(connection: sqlite3.Connection, _entry: object) -> None:
        if next(refusals, None) is not None:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY
            raise error
        connection.isolation_level = None

    monkeypatch.setattr("orchestrator.history.database.database._set_up_sqlite", refuse_twice)
    Database(str(tmp_path / "index.db")).close()
    assert next(refusals, None) is None


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    row = {"path": "a", "bytes": 1, "mtime_ns": 2, "sha256": "3"}

    def work(connection: Connection) -> None:
        connection.execute(insert(source_digests).values(row))
        raise LookupError("a mistake of the caller")

    with pytest.raises(LookupError):
        database.write(work)
    assert database.read(lambda connection: list(connection.execute(select(source_digests)))) == []


def test_sqlite_is_durable_and_lets_readers_pass_a_writer(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "deep" / "index.db"))
    assert database.read(lambda connection: connection.execute(text("pragma journal_mode")).scalar()) == "wal"
    assert database.read(lambda connection: connection.execute(text("pragma synchronous")).scalar()) == 2
    assert database.write(lambda _connection: now(database)) > 0


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "50% of my runs?" / "index #1.db"
    Database(str(path)).close()
    assert path.exists()


def test_a_locked_sqlite_file_gives_one_clear_message(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    database = Database(str(path), lock_wait_s=0.2)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(DatabaseError, match=r"index\.db: database is locked; another process holds it") as caught:
        database.write(lambda connection: connection.execute(text("delete from events")))
    assert "\n" not in str(caught.value)
    other.execute("rollback")
    database.write(lambda connection: connection.execute(text("delete from events")))


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(b"my thesis" * 1000)
    with pytest.raises(DatabaseError, match="not a database; it is another kind of file"):
        Database(str(path))
    assert path.read_bytes() == b"my thesis" * 1000


def test_a_damaged_sqlite_file_names_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    Database(str(path)).close()
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996  # the first page holds the table of tables
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match="illume index rebuild"):
        Database(str(path))


@pytest.mark.parametrize(
    "url", ["sqlite://", "mysql://root:hunter2@host/runs", "nonsense://", "postgresql+asyncpg-nope"]
)
def test_other_addresses_are_refused_without_their_password(url: str, tmp_path: Path) -> None:
    if "://" not in url:
        url = f"{url}://user:hunter2@host/x"
    with pytest.raises(DatabaseError) as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)


def test_an_unreachable_server_gives_one_clear_message_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(DatabaseError, match=r"postgresql://me:\*\*\*@127\.0\.0\.1:9/x: .*refused") as caught:
        Database("postgresql://me:hunter2@127.0.0.1:9/x")
    assert "hunter2" not in str(caught.value)
    assert time.monotonic() - started < 5


def test_a_broken_connection_is_replaced(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    tries: list[int] = []

    def work(connection: Connection) -> int:
        tries.append(connection.execute(text("select pg_backend_pid()")).scalar_one())
        if len(tries) == 1:
            with psycopg.connect(postgresql_url, autocommit=True) as other:
                other.execute("select pg_terminate_backend(%s)", (tries[0],))
        connection.execute(insert(source_digests).values(path="a", bytes=1, mtime_ns=2, sha256="3"))
        return len(tries)

    assert database.write(work) == 2
    assert len(database.read(lambda connection: list(connection.execute(select(source_digests))))) == 1


def test_source_digests_are_forgotten_when_the_file_changes(database: Database) -> None:
    cache = DatabaseDigestCache(database)
    path = "node-1:/data/na\udcefve\u00ef.jsonl"  # a file name that is not valid UTF-8
    stamp = FileStamp(path=path, bytes=10, mtime_ns=1_700_000_000_123_456_789, identity="7 8")
    cache.remember(stamp, "a" * 64)
    assert cache.find(stamp) == "a" * 64
    assert cache.find(replace(stamp, bytes=11)) is None
    assert cache.find(replace(stamp, mtime_ns=1_700_000_000_123_456_790)) is None
    assert cache.find(replace(stamp, identity="9 8")) is None
    assert cache.find(replace(stamp, path="node-2:/data/na\udcefve\u00ef.jsonl")) is None
    changed = replace(stamp, bytes=11, mtime_ns=5)
    cache.remember(changed, "b" * 64)
    assert (cache.find(stamp), cache.find(changed)) == (None, "b" * 64)


def error_with(state: str | None, kind: type[psycopg.Error] = psycopg.OperationalError) -> DBAPIError:
    original = kind("a text")
    if state is not None:
        original.sqlstate = state
    return DBAPIError("select 1", {}, original)


PASSING = "08006 25006 25P03 25P04 40001 40P01 53200 53300 55P03 57014 57P01 57P02 57P03 58000 58030"


@pytest.mark.parametrize("state", [*PASSING.split(), None])
def test_errors_that_pass_are_waited_for(state: str | None) -> None:
    assert _is_transient(error_with(state))


@pytest.mark.parametrize("state", ["22003", "23505", "28P01", "3D000", "42P01", "42501", "57P04", "XX001"])
def test_errors_that_last_are_reported_at_once(state: str) -> None:
    assert not _is_transient(error_with(state, psycopg.ProgrammingError))


def test_a_pool_whose_connections_are_all_busy_is_waited_for() -> None:
    assert _is_transient(SqlalchemyTimeoutError("QueuePool limit of size 5 overflow 32 reached"))


def later(action: Callable[[], object], wait_s: float = 0.6) -> threading.Timer:
    timer = threading.Timer(wait_s, action)
    timer.start()
    return timer


def test_a_server_that_is_read_only_for_a_while_is_waited_for(postgresql_url: str, postgresql_server: str) -> None:
    """As a standby is until it is promoted, or a primary that was switched over."""
    database = Database(postgresql_url, reconnect_s=20.0)
    row = {"path": "a", "bytes": 1, "mtime_ns": 2, "sha256": "3"}

    def set_read_only(value: str) -> None:
        with psycopg.connect(f"{postgresql_server}/postgres", autocommit=True) as connection:
            connection.execute(f"alter system set default_transaction_read_only = {value}")
            connection.execute("select pg_reload_conf()")

    def shows(value: str) -> bool:
        with psycopg.connect(f"{postgresql_server}/postgres", autocommit=True) as connection:
            found = connection.execute("show default_transaction_read_only").fetchone()
        return found == (value,)

    set_read_only("on")
    try:
        while not shows("on"):
            time.sleep(0.05)
        database.close()  # new connections see it
        timer = later(lambda: set_read_only("off"))
        database.write(lambda connection: connection.execute(insert(source_digests).values(row)))
        timer.join()
    finally:
        set_read_only("off")
    assert database.read(lambda connection: connection.execute(select(source_digests.c.path)).scalar_one()) == "a"


def test_a_server_with_too_many_connections_is_waited_for(postgresql_server: str) -> None:
    with psycopg.connect(f"{postgresql_server}/postgres", autocommit=True) as connection:
        connection.execute("create role crowded login connection limit 1")
        connection.execute("create schema crowded authorization crowded")
    address = f"{postgresql_server.replace('tester', 'crowded')}/postgres"
    database = Database(f"{address}?options=-csearch_path%3Dcrowded", reconnect_s=20.0)
    database.close()  # gives the only connection back
    with psycopg.connect(address) as other:
        timer = later(other.close)
        assert now(database) > 0
        timer.join()
    database.close()


def test_a_lost_server_is_waited_for_as_long_as_somebody_wants_that(postgresql_url: str) -> None:
    database = Database(postgresql_url, reconnect_s=0.05)
    attempts, wanted = [0], threading.Event()

    def fail_three_times(_connection: Connection) -> str:
        attempts[0] += 1
        if attempts[0] <= 3 or wanted.is_set():
            raise error_with("57P03")
        return "done"

    with pytest.raises(DatabaseError):
        database.read(fail_three_times)
    attempts[0] = 0
    with database.waiting_longer(lambda: not wanted.is_set()):
        assert database.read(fail_three_times) == "done"
        wanted.set()  # a person wants the driver to end
        with pytest.raises(DatabaseError):
            database.read(fail_three_times)


def test_a_file_that_was_moved_or_replaced_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "index.db"
    database = Database(str(file))
    assert not database.was_replaced()
    database.write(lambda connection: connection.execute(text("create table more (x integer)")))
    assert not database.was_replaced(), "written is not replaced"
    file.rename(tmp_path / "moved.db")
    assert database.was_replaced()
    other = Database(str(file))
    assert database.was_replaced()
    assert not other.was_replaced()
    for opened in (database, other):
        opened.close()


def test_nothing_of_sqlalchemy_is_imported_by_a_thread_later() -> None:
    """While MLflow imports `sqlalchemy.orm` in its thread, no other thread could bind the value of an enumeration."""
    program = "import sys, orchestrator.history.database.database; print('sqlalchemy.orm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
