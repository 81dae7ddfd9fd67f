"""The version of the index database's tables: they are made, or brought up to date, when a database is opened.

Adding a version:

1. Before anything is changed, keep the tables of today for the tests:
   `python tests/orchestrator/history/database/keep_schema.py`.
2. Change `schema.py`. A new column is nullable or has a `server_default`.
3. Append a `Migration` here that makes the same change to existing tables. `test_migrations.py` compares both.

Rules, as a process of the version before may be at work while the tables change under it:

- A migration only adds: a table, an index, a column that an old process may leave out. What is not needed any more
  stays for one version.
- It is text of its own and uses nothing of `schema.py`, which describes the newest version only.
- Columns that are derived from events are filled from the events, as a replay would fill them.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Double, select, text

from orchestrator.errors import DatabaseError
from orchestrator.history.database.schema import metadata, schema_version

_LOCK = 7216415  # arbitrary key of the PostgreSQL advisory lock held while tables are created or changed

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One version of the tables, made from the one before."""

    version: int
    change: str  # for the log
    apply: Callable[[Connection], None]


def _add_waits(connection: Connection) -> None:
    double = Double().compile(dialect=connection.dialect)
    connection.execute(text("create table if not exists known_stores (store_id varchar not null primary key)"))
    connection.execute(text("alter table stages add column waiting_for text not null default ''"))
    connection.execute(text(f"alter table stages add column waiting_since {double}"))
    waits = connection.execute(
        text(
            "select e.run_id, e.stage_id, e.time, e.fields from events e join runs r on r.run_id = e.run_id "
            "where e.kind = 'waiting' and e.epoch = r.epoch and e.stage_id is not null and not exists "
            "(select 1 from events a where a.run_id = e.run_id and a.stage_id = e.stage_id "
            "and a.kind in ('attempt_state', 'stage_reused') and a.sequence > e.sequence) order by e.sequence"
        )
    ).all()
    for run_id, stage_id, time, fields in waits:
        connection.execute(
            text(
                "update stages set waiting_for = :what, waiting_since = :since where run_id = :run and stage_id = :id"
            ),
            {"what": str(json.loads(fields).get("for", "")), "since": time, "run": run_id, "id": stage_id},
        )


def _add_file_identity(connection: Connection) -> None:
    connection.execute(text("alter table source_digests add column identity text not null default ''"))


def _add_time_of_events(connection: Connection) -> None:
    connection.execute(text("create index if not exists ix_events_time on events (time)"))


def _add_queue(connection: Connection) -> None:
    double = Double().compile(dialect=connection.dialect)
    tables = {
        "queue_records": "key varchar not null primary key, what varchar not null, subject varchar not null, "
        "number integer not null, record text not null",
        "pools": f"pool varchar not null primary key, cpus {double} not null, gpus {double} not null, "
        f"memory_gib {double} not null, seen_at {double} not null",
        "claims": "run_id varchar not null, stage_id varchar not null, pool varchar not null, person varchar not null, "
        f"priority integer not null, cpus {double} not null, gpus {double} not null, memory_gib {double} not null, "
        f"fingerprint varchar not null, asked_at {double} not null, seen_at {double} not null, granted_at {double}, "
        "may_yield boolean not null, reason text not null, primary key (run_id, stage_id)",
        "pool_usage": f"pool varchar not null, person varchar not null, amount {double} not null, at {double} not "
        "null, primary key (pool, person)",
        "run_stops": f"run_id varchar not null primary key, reason text not null, at {double} not null",
    }
    for name, columns in tables.items():
        connection.execute(text(f"create table {name} ({columns})"))
    connection.execute(text("create index ix_queue_records_what on queue_records (what)"))
    connection.execute(text("create index ix_claims_pool on claims (pool)"))


def _add_kinds_of_events(connection: Connection) -> None:
    connection.execute(text("create index if not exists ix_events_kind on events (run_id, stage_id, kind, sequence)"))


def _add_stores_in_the_making(connection: Connection) -> None:
    connection.execute(text("alter table known_stores add column made_in text not null default ''"))


MIGRATIONS: Sequence[Migration] = (
    Migration(version=2, change="stages say what they wait for, and since when", apply=_add_waits),
    Migration(version=3, change="a source file is known by its inode and its last change", apply=_add_file_identity),
    Migration(version=4, change="events of all runs are found by their time", apply=_add_time_of_events),
    Migration(version=5, change="runs wait in a queue and share clusters", apply=_add_queue),
    Migration(version=6, change="events of a stage are found by their kind", apply=_add_kinds_of_events),
    Migration(version=7, change="a store is known before it is made", apply=_add_stores_in_the_making),
)
SCHEMA_VERSION = MIGRATIONS[-1].version


def bring_up_to_date(connection: Connection, address: str) -> None:
    """Make the tables, or bring them to this version. Processes that do so at once wait for one another.

    Raises:
        DatabaseError: a newer version of illume has changed the tables.
    """
    if connection.dialect.name == "postgresql":  # SQLite: the transaction holds the only write lock
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    schema_version.create(connection, checkfirst=True)
    versions = list(connection.execute(select(schema_version.c.version)).scalars())
    if not versions:
        metadata.create_all(connection)
        connection.execute(schema_version.insert().values(version=SCHEMA_VERSION))
        return
    found = versions[0]
    if versions != [found] or not 1 <= found <= SCHEMA_VERSION:
        raise DatabaseError(
            f"database {address}: found schema version {', '.join(map(str, versions))}, expected 1 to "
            f"{SCHEMA_VERSION}; use the version of illume that changed it, or another database and then "
            "`illume index rebuild`"
        )
    for migration in MIGRATIONS[found - 1 :]:
        migration.apply(connection)
        connection.execute(schema_version.update().values(version=migration.version))
        log.info("database %s: schema version %d: %s", address, migration.version, migration.change)
