"""A filtered list of events over all runs, newest first, in pages.

Rule: one page looks at `MAX_SCANNED` events at most, however few fit, so that each question is short; the page says
from where to go on.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from orchestrator.history.actors import ActorRecord, actor_of
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import events
from orchestrator.history.events import BULK_KINDS, Event
from orchestrator.history.projection import event_from_row

MAX_SCANNED = 5000  # take 50 ms where one in ten events is no metric
MAX_BATCH = 5000
Place = tuple[float, str, int]  # time, run and number of an event


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """What is not set is not asked for."""

    run_id: str = ""
    stage_id: str = ""
    kind: str = ""
    actor: str = ""  # pattern with shell wildcards, for a user, a host, both as USER@HOST, or the name of a token
    text: str = ""  # a part of the event's fields, as JSON
    before: Place | None = None
    has_telemetry: bool = False  # also progress and metrics


@dataclass(frozen=True, kw_only=True)
class FoundEvents:
    events: tuple[Event, ...]  # newest first
    scanned_to: Place | None  # where the search goes on; None: there are no older ones


def search_events(database: Database, wanted: EventFilter, *, limit: int) -> FoundEvents:
    """The newest events that fit."""
    found: list[Event] = []
    place, scanned, batch = wanted.before, 0, min(limit + 1, MAX_SCANNED)
    while True:
        rows = _next_rows(database, wanted, place, batch)
        for row in rows.fitting:
            if len(found) == limit:
                return FoundEvents(events=tuple(found), scanned_to=place)
            event = event_from_row(row)
            place = (row.time, row.run_id, row.sequence)
            if fits_actor(actor_of(event), wanted.actor):
                found.append(event)
        place, scanned = rows.scanned_to or place, scanned + batch
        if rows.scanned_to is None:
            return FoundEvents(events=tuple(found), scanned_to=None)
        if scanned >= MAX_SCANNED:
            return FoundEvents(events=tuple(found), scanned_to=place)
        batch = min(MAX_BATCH, 10 * batch, MAX_SCANNED - scanned)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    fitting: Sequence[Any]  # of those that were looked at, those whose text may fit
    scanned_to: Place | None  # the last one that was looked at; None: there are no older ones


def _next_rows(database: Database, wanted: EventFilter, before: Place | None, batch: int) -> _Rows:
    """Looks at the next rows in the order of a page. What does not fit never leaves the database."""
    order = (events.c.time.desc(), events.c.run_id.desc(), events.c.sequence.desc())
    looked_at = select(events).where(*_indexed(wanted), *_older_than(before)).order_by(*order).limit(batch)
    texts = _texts(wanted)
    if not texts:
        rows = database.read(lambda connection: list(connection.execute(looked_at)))
        return _Rows(fitting=rows, scanned_to=_place(rows[-1]) if len(rows) == batch else None)
    inner = looked_at.subquery()
    fitting = select(inner).where(*(inner.c.fields.icontains(text, autoescape=True) for text in texts))
    in_order = fitting.order_by(inner.c.time.desc(), inner.c.run_id.desc(), inner.c.sequence.desc())
    last = looked_at.with_only_columns(events.c.time, events.c.run_id, events.c.sequence).offset(batch - 1).limit(1)

    def work(connection: Connection) -> _Rows:
        place = connection.execute(last).one_or_none()
        return _Rows(fitting=connection.execute(in_order).all(), scanned_to=_place(place) if place else None)

    return database.read(work)


def _place(row: Any) -> Place:
    return (row.time, row.run_id, row.sequence)


def _texts(wanted: EventFilter) -> list[str]:
    """What the JSON of the fields of an event holds that fits: the text, and the pieces of the actor's name."""
    pieces = [piece for piece in _WILD.split(wanted.actor) if piece]
    found = [json.dumps(text)[1:-1] for text in (wanted.text, *pieces) if text]
    return [*found, '"actor"'] if wanted.actor else found


_WILD = re.compile(r"\*|\?|\[[^\]]*\]?|@")  # what stands for other letters in a pattern, and what joins USER@HOST


def fits_actor(actor: ActorRecord | None, pattern: str) -> bool:
    if not pattern:
        return True
    if actor is None:
        return False
    names = {actor.name, actor.user, actor.host, actor.token_name} - {""}
    return any(fnmatchcase(name, pattern) for name in names)


def _indexed(wanted: EventFilter) -> Sequence[ColumnElement[bool]]:
    """The conditions that the database carries out."""
    found: list[ColumnElement[bool]] = []
    columns: dict[str, Any] = {"run_id": wanted.run_id, "stage_id": wanted.stage_id, "kind": wanted.kind}
    found += [events.c[name] == value for name, value in columns.items() if value]
    if not wanted.has_telemetry and not wanted.kind:
        found.append(events.c.kind.not_in(BULK_KINDS))
    return found


def _older_than(place: Place | None) -> Sequence[ColumnElement[bool]]:
    if place is None:
        return []
    time, run_id, sequence = place
    later_in_run = and_(events.c.run_id == run_id, events.c.sequence < sequence)
    same_time = and_(events.c.time == time, or_(events.c.run_id < run_id, later_in_run))
    return [events.c.time <= time, or_(events.c.time < time, same_time)]
