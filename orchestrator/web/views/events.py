"""What happened, newest first: events of runs and changes of the store, with who did them."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.history.actors import ActorRecord, actor_of
from orchestrator.history.changes import Change, read_changes
from orchestrator.history.event_search import EventFilter, fits_actor, search_events
from orchestrator.history.events import Event, EventKind
from orchestrator.web.addresses import link
from orchestrator.web.service import Service
from orchestrator.workspace import Workspace

PAGE_EVENTS = 50
MAX_TEXT = 400  # characters
MAX_LIST = 80  # characters of a list that is shown
HIDDEN = (
    "actor",
    "config",
    "inputs",
    "stages",
    "artifact",
    "recipe",
    "uri",
    "attempt_epoch",
    "stage_kind",
    "stage_version",
)
HIDDEN_OF_STATES = ("fingerprint", "description", "resources", "progress", "number")  # they stand on the stage's page


@dataclass(frozen=True, kw_only=True)
class EventRow:
    time: float  # seconds since 1970
    kind: str
    run: str  # empty for changes of the store
    stage: str
    attempt: str
    sequence: int  # in its run; 0 for changes of the store
    actor: str  # empty: not recorded
    command: str
    reason: str
    text: str
    link: str


@dataclass(frozen=True, kw_only=True)
class EventsView:
    events: tuple[EventRow, ...]  # newest first
    older: str  # value of `before` for the next page; empty: there is none
    is_cut: bool  # not all that was looked through fits, and there is more to look through


def load_events(service: Service, wanted: EventFilter) -> EventsView:
    workspace = service.workspace()
    found = search_events(workspace.database, wanted, limit=PAGE_EVENTS)
    rows = [event_row(event) for event in found.events]
    oldest = found.scanned_to[0] if found.scanned_to else 0.0
    if not (wanted.run_id or wanted.stage_id):
        newest = wanted.before[0] if wanted.before else float("inf")
        changes = service.changes.get(lambda: _changes(workspace))
        rows += [row for row in changes if oldest <= row.time < newest and _fits(row, wanted)]
    rows.sort(key=lambda row: -row.time)
    older = ",".join(map(str, found.scanned_to)) if found.scanned_to else ""
    return EventsView(events=tuple(rows), older=older, is_cut=bool(older) and len(found.events) < PAGE_EVENTS)


def _changes(workspace: Workspace) -> list[EventRow]:
    """The changes of the store; none if it is away, which stands above every page."""
    try:
        return [_change_row(change) for change in read_changes(workspace.store)]
    except OrchestratorError:
        return []


def _fits(row: EventRow, wanted: EventFilter) -> bool:
    actor = ActorRecord(user=row.actor.partition("@")[0], host=row.actor.partition("@")[2], token_name=row.actor)
    is_text = not wanted.text or wanted.text.lower() in f"{row.text} {row.command} {row.reason}".lower()
    return wanted.kind in ("", row.kind) and is_text and fits_actor(actor, wanted.actor)


def event_row(event: Event) -> EventRow:
    actor = actor_of(event)
    fields: dict[str, Any] = {name: value for name, value in event.fields.items() if name not in HIDDEN}
    if event.kind == EventKind.ATTEMPT_STATE:
        fields = {name: value for name, value in fields.items() if name not in HIDDEN_OF_STATES}
    state = f"{fields.pop('from', None) or 'new'} → {fields.pop('to')}".lower() if "to" in fields else ""
    rest = " ".join(f"{name}={_short(value)}" for name, value in fields.items())
    return EventRow(
        time=event.time,
        kind=event.kind,
        run=event.run_id,
        stage=event.stage_id or "",
        attempt=event.attempt_id or "",
        sequence=event.sequence,
        actor=actor.name if actor else "",
        command=actor.command if actor else "",
        reason=actor.reason if actor else "",
        text=f"{state} {rest}".strip()[:MAX_TEXT],
        link=link("runs", event.run_id, "stages", event.stage_id) if event.stage_id else link("runs", event.run_id),
    )


def _change_row(change: Change) -> EventRow:
    more = (
        f" and {change.num_subjects - len(change.subjects)} more" if change.num_subjects > len(change.subjects) else ""
    )
    return EventRow(
        time=datetime.fromisoformat(change.at).timestamp(),
        kind=change.what,
        run="",
        stage="",
        attempt="",
        sequence=0,
        actor=change.actor.name,
        command=change.actor.command,
        reason=change.actor.reason,
        text=f"{', '.join(change.subjects)}{more}"[:MAX_TEXT],
        link="",
    )


def _short(value: object) -> str:
    """A value of a field; of a long list only how long it is."""
    text = json.dumps(value, ensure_ascii=False)
    return f"{len(value):,} entries" if isinstance(value, list) and len(text) > MAX_LIST else text[:MAX_TEXT]
