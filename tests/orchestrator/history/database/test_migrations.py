"""Databases of earlier versions, whose tables and rows are kept in `schema_<version>.json` (see `keep_schema.py`)."""

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, inspect, text

from orchestrator.errors import DatabaseError
from orchestrator.history.database.database import Database
from orchestrator.history.database.known_store import remembered_store
from orchestrator.history.database.migrations import MIGRATIONS, SCHEMA_VERSION
from orchestrator.history.events import RunState
from orchestrator.history.run_status import run_status
from orchestrator.history.run_store import RunStore

KEPT = sorted(Path(__file__).parent.glob("schema_*.json"))


def make_old_database(url: str, kept: dict[str, Any]) -> None:
    """A database as an earlier version left it, made without any code of ours."""
    is_sqlite = "://" not in url
    connection: Any = sqlite3.connect(url) if is_sqlite else psycopg.connect(url)
    for statement in kept["sqlite" if is_sqlite else "postgresql"]:
        connection.execute(statement)
    for table, rows in kept["rows"].items():
        for row in rows:
            places = ", ".join(["?" if is_sqlite else "%s"] * len(row))
            connection.execute(f"insert into {table} ({', '.join(row)}) values ({places})", tuple(row.values()))
    connection.commit()
    connection.close()


def tables(database: Database) -> dict[str, dict[str, Any]]:
    """Of every table its columns with type and nullability, keys and indexes."""

    def look(connection: Connection) -> dict[str, dict[str, Any]]:
        found = inspect(connection)
        return {
            name: {
                "columns": {
                    column["name"]: (
                        str(column["type"]),
                        column["nullable"],
                    )
                    for column in found.get_columns(name)
                },
                "key": found.get_pk_constraint(name)["constrained_columns"],
                "indexes": sorted(str(index["column_names"]) for index in found.get_indexes(name)),
            }
            for name in found.get_table_names()
        }

    return database.read(look)


def version(database: Database) -> list[int]:
    query = text("select version from illume_schema")
    return database.read(lambda connection: list(connection.execute(query).scalars()))


@pytest.fixture(params=KEPT, ids=[path.stem for path in KEPT])
def old_url(request: pytest.FixtureRequest, database_url: str) -> str:
    make_old_database(database_url, json.loads(request.param.read_text()))
    return database_url


def test_a_database_of_every_earlier_version_is_kept_for_the_tests() -> None:
    assert [path.name for path in KEPT] == [f"schema_{number}.json" for number in range(1, SCHEMA_VERSION)]
    assert [migration.version for migration in MIGRATIONS] == list(range(2, SCHEMA_VERSION + 1))


def test_migrated_tables_equal_new_ones(old_url: str, tmp_path: Path) -> None:
    migrated = Database(old_url)
    assert version(migrated) == [SCHEMA_VERSION]
    found = tables(migrated)
    if "://" in old_url:
        migrated.write(lambda connection: [connection.execute(text(f"drop table {name}")) for name in found])
        migrated.close()
        new = Database(old_url)
    else:
        new = Database(str(tmp_path / "new.db"))
    assert found == tables(new)
    migrated.close()
    new.close()


def test_a_migrated_database_shows_its_runs_and_takes_new_events(old_url: str) -> None:
    database = Database(old_url)
    assert run_status(database, "r1").run.state is RunState.FAILED
    status = run_status(database, "r2")
    raw, curated = status.stages
    assert (raw.state, raw.done, raw.total) == ("RUNNING", 3, 8)
    assert (curated.state, curated.waiting_for) == ("WAITING", "process 4711 on host7")
    assert curated.waiting_since is not None
    store = RunStore(database)
    before = store.events("r2")
    store.record("r2", "note", {}, epoch=status.run.epoch)
    assert [event.sequence for event in store.events("r2")] == [*(event.sequence for event in before), len(before) + 1]
    store.close()
    database.close()


def test_a_database_of_the_first_version_need_not_know_its_store(database_url: str) -> None:
    """The table came without a new version."""
    kept = json.loads(KEPT[0].read_text())
    del kept["rows"]["known_stores"]
    for dialect in ("sqlite", "postgresql"):
        kept[dialect] = [statement for statement in kept[dialect] if "known_stores" not in statement]
    make_old_database(database_url, kept)
    database = Database(database_url)
    assert remembered_store(database) is None
    database.close()


def test_a_process_of_the_version_before_works_on_while_the_tables_change(old_url: str) -> None:
    """It holds the database open, and leaves out the columns that it does not know."""
    is_sqlite = "://" not in old_url
    before: Any = sqlite3.connect(old_url) if is_sqlite else psycopg.connect(old_url, autocommit=True)
    count = before.execute("select count(*) from runs").fetchone()
    Database(old_url).close()
    names = "run_id, stage_id, position, stage_kind, fingerprint, action, reasons, upstream"
    row = ("r9", "raw", 0, "draw", "f", "run", "[]", "[]")
    places = ", ".join(["?" if is_sqlite else "%s"] * len(row))
    before.execute(f"insert into stages ({names}) values ({places})", row)
    before.commit()
    assert before.execute("select count(*) from runs").fetchone() == count
    before.close()


def test_processes_that_migrate_at_once_do_so_once(old_url: str) -> None:
    problems: list[BaseException] = []

    def open_one() -> None:
        try:
            Database(old_url).close()
        except DatabaseError as error:
            problems.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    database = Database(old_url)
    assert version(database) == [SCHEMA_VERSION]
    database.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(old_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    statement = "alter table stages rename column position to place"
    if "://" not in old_url:
        with sqlite3.connect(old_url) as connection:
            before = connection.execute("select sql from sqlite_master order by name").fetchall()

    def apply(connection: Connection) -> None:
        connection.execute(text(statement))
        raise DatabaseError("a mistake in a migration")

    broken = [type(MIGRATIONS[0])(version=item.version, change="", apply=apply) for item in MIGRATIONS]
    monkeypatch.setattr("orchestrator.history.database.migrations.MIGRATIONS", broken)
    with pytest.raises(DatabaseError, match="a mistake"):
        Database(old_url)
    if "://" not in old_url:
        with sqlite3.connect(old_url) as connection:
            assert connection.execute("select sql from sqlite_master order by name").fetchall() == before
    monkeypatch.undo()
    Database(old_url).close()


@pytest.mark.parametrize("number", [0, SCHEMA_VERSION + 1, 99])
def test_a_database_of_a_newer_version_is_refused_in_one_sentence(database_url: str, number: int) -> None:
    database = Database(database_url)
    before = tables(database)
    database.write(lambda connection: connection.execute(text(f"update illume_schema set version = {number}")))
    with pytest.raises(
        DatabaseError, match=f"found schema version {number}, expected 1 to {SCHEMA_VERSION}; "
    ) as caught:
        Database(database_url)
    assert "\n" not in str(caught.value)
    assert tables(database) == before
    database.close()
