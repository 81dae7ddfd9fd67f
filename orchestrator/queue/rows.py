"""The records of the queue as rows of the database, so that a look at the queue reads no store.

Rule: rows are copies. What a process that died wrote only into the store is copied by `copy_missing`, which servers
call again and again, and `illume index rebuild` makes all rows anew.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, func, select

from orchestrator.documents.typed_json import record_from_json
from orchestrator.errors import CorruptArtifactError, NewerFormatError
from orchestrator.history.database.database import Database, dump_json, insert_new
from orchestrator.history.database.schema import queue_records
from orchestrator.queue.records import QUEUE, RECORDS, Record, What, parts_of, put_record
from orchestrator.store.store import Store, read_record

R = TypeVar("R", bound=Record)
FIRST = 1  # number of a record that is written once for its subject

log = logging.getLogger(__name__)


def add_record(
    store: Store, database: Database, what: What, subject: str, record: Record, *, number: int | None = None
) -> bool:
    """Write a record into the store, then its row. False: there is a record of this number already."""
    key = put_record(store, what, subject, record, number=number)
    if key is not None:
        _copy(store, database, key)
    return key is not None


def copy_missing(store: Store, database: Database) -> int:
    """Copy the records that have no row; returns how many."""
    known = database.read(lambda connection: set(connection.execute(select(queue_records.c.key)).scalars()))
    return sum(_copy(store, database, item.key) for item in store.list(QUEUE) if item.key not in known)


def rebuild_queue(store: Store, database: Database) -> int:
    """Make all rows anew from the store; returns how many."""
    database.write(lambda connection: connection.execute(delete(queue_records)))
    return copy_missing(store, database)


def newest(database: Database, record_class: type[R], *, what: What | None = None) -> dict[str, R]:
    """By subject its newest record of a class, oldest subject first."""
    kind = what or next(name for name, known in RECORDS.items() if known is record_class)
    numbers = (
        select(queue_records.c.subject, func.max(queue_records.c.number).label("number"))
        .where(queue_records.c.what == kind)
        .group_by(queue_records.c.subject)
        .subquery()
    )
    is_newest = (queue_records.c.subject == numbers.c.subject) & (queue_records.c.number == numbers.c.number)
    query = select(queue_records).join(numbers, is_newest).where(queue_records.c.what == kind)
    rows = database.read(lambda connection: connection.execute(query.order_by(queue_records.c.key)).all())
    return {row.subject: _decoded(record_class, json.loads(row.record), row.key) for row in rows}


def newest_of(database: Database, record_class: type[R], subject: str) -> tuple[int, R] | None:
    """The number of the newest record about a subject, and the record."""
    kind = next(name for name, known in RECORDS.items() if known is record_class)
    query = (
        select(queue_records)
        .where(queue_records.c.what == kind, queue_records.c.subject == subject)
        .order_by(queue_records.c.number.desc())
        .limit(1)
    )
    row = database.read(lambda connection: connection.execute(query).one_or_none())
    return None if row is None else (row.number, _decoded(record_class, json.loads(row.record), row.key))


def _decoded(record_class: type[R], record: Mapping[str, Any], key: str) -> R:
    return record_from_json(record_class, record, key)


def _copy(store: Store, database: Database, key: str) -> bool:
    """Copy one record; False, with a warning, for what cannot be read."""
    parts = parts_of(key)
    if parts is None:
        return False
    what, subject, number = parts
    try:
        record = read_record(store, key)
        if record is None:
            return False
        _decoded(RECORDS[what], record, f"{store.url}: {key}")
    except (CorruptArtifactError, NewerFormatError) as error:
        log.warning("skipped: %s", error)
        return False
    row = {"key": key, "what": what, "subject": subject, "number": number, "record": dump_json(record)}

    def work(connection: Connection) -> None:
        connection.execute(insert_new(connection, queue_records).values(row).on_conflict_do_nothing())

    database.write(work)
    return True
