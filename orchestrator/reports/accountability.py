"""Who did what: the events of runs and the changes of a store that name an actor, in the order of time."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from sqlalchemy import select

from orchestrator.artifact import JSON
from orchestrator.history.actors import ActorRecord, actor_of
from orchestrator.history.changes import read_changes
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import events
from orchestrator.history.events import BULK_KINDS
from orchestrator.history.projection import event_from_row
from orchestrator.store.store import Store
from orchestrator.times import iso_time

MAX_SUBJECTS = 5  # in text


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something that an actor did."""

    time: float  # seconds since 1970
    what: str  # kind of the event with its new state, or kind of the change
    subjects: tuple[str, ...]  # run, stage and attempt; or what was changed in the store
    num_subjects: int
    actor: ActorRecord


def actions_of(database: Database, store: Store, pattern: str, *, run_id: str | None = None) -> list[Action]:
    """The actions of actors whose name fits a pattern with shell wildcards, of one run or of everything."""
    found = [action for action in _of_runs(database, run_id) if _fits(action.actor, pattern)]
    if run_id is None:
        found += [action for action in _of_store(store) if _fits(action.actor, pattern)]
    return sorted(found, key=lambda action: action.time)


def action_text(action: Action) -> str:
    """One line for a terminal."""
    more = action.num_subjects - MAX_SUBJECTS
    subjects = ", ".join(action.subjects[:MAX_SUBJECTS]) + (f" and {more} more" if more > 0 else "")
    actor = action.actor
    command = f"; {actor.command}" if actor.command else ""
    reason = f"; reason: {actor.reason}" if actor.reason else ""
    return f"{iso_time(action.time)} {actor.name} {action.what}: {subjects}{command}{reason}"


def action_to_line(action: Action) -> str:
    """One line of JSON."""
    fields: dict[str, JSON] = {"format": 1, "at": iso_time(action.time), **asdict(action), "name": action.actor.name}
    return json.dumps(fields, sort_keys=True)


def _fits(actor: ActorRecord, pattern: str) -> bool:
    names = {actor.name, actor.user, actor.host, actor.token_name} - {""}
    return any(fnmatchcase(name, pattern) for name in names)


def _of_runs(database: Database, run_id: str | None) -> Iterator[Action]:
    query = select(events).where(events.c.kind.not_in(BULK_KINDS)).order_by(events.c.run_id, events.c.sequence)
    if run_id is not None:
        query = query.where(events.c.run_id == run_id)
    rows = database.read(lambda connection: list(connection.execute(query)))
    for event in map(event_from_row, rows):
        actor = actor_of(event)
        if actor is not None:
            state = event.fields.get("to")
            subjects = tuple(filter(None, (event.run_id, event.stage_id, event.attempt_id)))
            yield Action(
                time=event.time,
                what=f"{event.kind} {state}" if state else event.kind,
                subjects=subjects,
                num_subjects=len(subjects),
                actor=actor,
            )


def _of_store(store: Store) -> Iterator[Action]:
    for change in read_changes(store):
        yield Action(
            time=datetime.fromisoformat(change.at).timestamp(),
            what=change.what,
            subjects=change.subjects,
            num_subjects=change.num_subjects,
            actor=change.actor,
        )
