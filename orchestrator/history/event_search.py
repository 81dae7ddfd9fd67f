"""A filtered list of events over all runs, newest first, in pages.

Rule: one page looks at `MAX_SCANNED` events at most, however few fit, so that each question is short; the page says
from where to go on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select

from orchestrator.history.actors import ActorRecord, actor_of
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import events
from orchestrator.history.events import BULK_KINDS, Event
from orchestrator.history.projection import event_from_row

MAX_SCANNED = 20_000
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
    inner = select(events).where(*_indexed(wanted))
    order = (events.c.time.desc(), events.c.run_id.desc(), events.c.sequence.desc())
    inner_rows = inner.order_by(*order).limit(MAX_SCANNED)
    if not (wanted.actor or wanted.text):
        inner_rows = inner_rows.limit(limit + 1)
    rows = database.read(lambda connection: list(connection.execute(inner_rows)))
    found: list[Event] = []
    for row in rows:
        if len(found) == limit:
            break
        event = event_from_row(row) if _may_fit(row.fields, wanted) else None
        if event is not None and fits_actor(actor_of(event), wanted.actor):
            found.append(event)
        last = row
    is_full = len(found) == limit or len(rows) == MAX_SCANNED
    place = (last.time, last.run_id, last.sequence) if rows and is_full else None
    return FoundEvents(events=tuple(found), scanned_to=place)


def fits_actor(actor: ActorRecord | None, pattern: str) -> bool:
    if not pattern:
        return True
    if actor is None:
        return False
    names = {actor.name, actor.user, actor.host, actor.token_name} - {""}
    return any(fnmatchcase(name, pattern) for name in names)


def _may_fit(fields: str, wanted: EventFilter) -> bool:
    """Cheap, on the text of the fields, before they are parsed."""
    text = json.dumps(wanted.text)[1:-1].lower()
    return (not text or text in fields.lower()) and (not wanted.actor or '"actor"' in fields)


def _indexed(wanted: EventFilter) -> Sequence[ColumnElement[bool]]:
    """The conditions that the database carries out."""
    found: list[ColumnElement[bool]] = []
    columns: dict[str, Any] = {"run_id": wanted.run_id, "stage_id": wanted.stage_id, "kind": wanted.kind}
    found += [events.c[name] == value for name, value in columns.items() if value]
    if not wanted.has_telemetry and not wanted.kind:
        found.append(events.c.kind.not_in(BULK_KINDS))
    if wanted.before:
        time, run_id, sequence = wanted.before
        later_in_run = and_(events.c.run_id == run_id, events.c.sequence < sequence)
        same_time = and_(events.c.time == time, or_(events.c.run_id < run_id, later_in_run))
        found += [events.c.time <= time, or_(events.c.time < time, same_time)]
    return found
