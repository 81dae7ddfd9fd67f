"""The tables of the index database, the same in SQLite and PostgreSQL, and the database's clock.

Rule: `runs`, `stages` and `attempts` are derived from `events` alone (see projection.py), so they can be recreated from
the store. What changes here needs a migration (migrations.py).
"""

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

metadata = MetaData()

schema_version = Table("illume_schema", metadata, Column("version", Integer, primary_key=True))

known_stores = Table(  # see known_store.py
    "known_stores",
    metadata,
    Column("store_id", String, primary_key=True),
    Column("made_in", Text, nullable=False, server_default=""),  # not empty: it is being made in this folder
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("recipe", String, nullable=False),
    Column("plan_digest", String, nullable=False),
    Column("state", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("owner", Text, nullable=False),  # of the driver of the newest epoch
    Column("last_event", Integer, nullable=False),  # sequence number; raised before an event is written
    Column("cancel_requested", Boolean, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

stages = Table(
    "stages",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("stage_id", String, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("stage_kind", String, nullable=False),
    Column("fingerprint", String, nullable=False, index=True),
    Column("action", String, nullable=False),
    Column("reasons", Text, nullable=False),  # JSON list of texts
    Column("upstream", Text, nullable=False),  # JSON list of stage ids
    Column("waiting_for", Text, nullable=False, server_default=""),  # empty: it does not wait
    Column("waiting_since", Double),
)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", String, primary_key=True),
    Column("run_id", String, nullable=False, index=True),
    Column("stage_id", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("stage_kind", String, nullable=False),
    Column("fingerprint", String, nullable=False, index=True),
    Column("failure_class", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("unit", String, nullable=False),
    Column("rate_per_s", Double, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("stage_id", String),
    Column("attempt_id", String),
    Column("fields", Text, nullable=False),  # JSON object
    Index("ix_events_time", "time"),  # for the newest events of all runs
    Index("ix_events_kind", "run_id", "stage_id", "kind", "sequence"),  # for those of a kind among a million
)

outbox = Table(  # for each run and sink: the events above `delivered` are still to be delivered
    "outbox",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("sink", String, primary_key=True),
    Column("delivered", Integer, nullable=False),
    Column("rejected", Integer, nullable=False),  # number of events that the sink can never accept
    Column("problem", Text, nullable=False),  # the newest one; empty if there is none
)

leases = Table(
    "leases",
    metadata,
    Column("resource", String, primary_key=True),
    Column("owner", Text, nullable=False),  # empty: released
    Column("epoch", Integer, nullable=False),
    Column("expires_at", Double, nullable=False),
)

queue_records = Table(  # copies of the records below `queue/` in the store
    "queue_records",
    metadata,
    Column("key", String, primary_key=True),
    Column("what", String, nullable=False, index=True),
    Column("subject", String, nullable=False),  # a run, a schedule, a budget
    Column("number", Integer, nullable=False),  # of the record about its subject; the newest counts
    Column("record", Text, nullable=False),  # JSON object
)

pools = Table(  # what is shared by runs: a Ray cluster, or this machine
    "pools",
    metadata,
    Column("pool", String, primary_key=True),
    Column("cpus", Double, nullable=False),
    Column("gpus", Double, nullable=False),
    Column("memory_gib", Double, nullable=False),
    Column("seen_at", Double, nullable=False),  # 0: nobody has seen the cluster yet
)

claims = Table(  # who waits for room in a pool, and who has it
    "claims",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("stage_id", String, primary_key=True),  # empty: the run waits for a driver
    Column("pool", String, nullable=False, index=True),
    Column("person", String, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("cpus", Double, nullable=False),
    Column("gpus", Double, nullable=False),
    Column("memory_gib", Double, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("asked_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),  # when its driver, or a server, last said that it still counts
    Column("granted_at", Double),
    Column("may_yield", Boolean, nullable=False),
    Column("reason", Text, nullable=False),  # why it waits
)

pool_usage = Table(  # how much of a pool each person had lately, in seconds of dominant share
    "pool_usage",
    metadata,
    Column("pool", String, primary_key=True),
    Column("person", String, primary_key=True),
    Column("amount", Double, nullable=False),  # as of `at`; it halves with time
    Column("at", Double, nullable=False),
)

run_stops = Table(  # runs that are asked to stop at their commit point, and continue later
    "run_stops",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at", Double, nullable=False),
)

source_digests = Table(
    "source_digests",
    metadata,
    Column("path", Text, primary_key=True),  # with the host before it
    Column("bytes", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("identity", Text, nullable=False, server_default=""),  # inode and time of the last change of any kind
)


class database_now(GenericFunction[float]):  # noqa: N801 - SQLAlchemy names SQL functions after the class
    """Seconds since 1970 by the database's clock, at the moment that the statement runs."""

    type = Double()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(_element: database_now, _compiler: SQLCompiler, **_options: object) -> str:
    return "round((julianday('now') - 2440587.5) * 86400.0, 3)"  # its resolution; the rest is noise of the arithmetic


@compiles(database_now, "postgresql")
def _postgresql_now(_element: database_now, _compiler: SQLCompiler, **_options: object) -> str:
    return "extract(epoch from clock_timestamp())::double precision"
