"""Events of runs: typed, versioned, numbered records that table rows, sinks and run records are derived from.

Rule: a secret never enters an event; the fields of each pass through `event_fields`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from orchestrator.artifact import JSON
from orchestrator.documents.typed_json import JSONObject, record_from_json
from orchestrator.redaction.masking import mask_secrets
from orchestrator.times import iso_time

EVENT_FORMAT = 1


class RunState(StrEnum):
    PLANNED = "PLANNED"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    INTERRUPTED = "INTERRUPTED"


class AttemptState(StrEnum):
    INTENT = "INTENT"
    RUNNING = "RUNNING"
    COMMITTED = "COMMITTED"
    FAILED = "FAILED"
    LOST = "LOST"
    CANCELLED = "CANCELLED"


class EventKind(StrEnum):
    """The event kinds that the kernel knows. Any other kind is allowed; it is stored and passed to the sinks."""

    RUN_CREATED = "run_created"  # recipe, plan_digest, stages
    RUN_STATE = "run_state"  # from, to, message?
    CANCEL_REQUESTED = "cancel_requested"
    STAGE_REUSED = "stage_reused"  # fingerprint: another run has made the artifact in the meantime
    ATTEMPT_STATE = "attempt_state"  # from, to, number, stage_kind, fingerprint, and fields of the state
    WAITING = "waiting"  # for: what the stage waits for, from now on
    WAITED = "waited"  # for: it waits no more
    PROGRESS = "progress"  # done, total, unit, rate_per_s
    METRICS = "metrics"  # points: [[name, value, step, time], ...]; first: number of the first, counted in the attempt
    METRICS_DROPPED = "metrics_dropped"  # points: how many
    MODEL_VERSION = "model_version"  # name, uri, alias?
    MODEL_TAINTED = "model_tainted"  # takedown: the model was trained on what it removed


_OPEN_KINDS = {
    EventKind.STAGE_REUSED,
    EventKind.MODEL_VERSION,
    EventKind.MODEL_TAINTED,
    EventKind.WAITING,
    EventKind.WAITED,
}
RESERVED_KINDS = frozenset(set(EventKind) - _OPEN_KINDS)
BULK_KINDS = frozenset({EventKind.PROGRESS, EventKind.METRICS})  # may reach a sink later than other events


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event. Numbered 1, 2, 3 ... within its run, without gaps, in commit order."""

    run_id: str
    sequence: int
    time: float  # seconds since 1970 by the database's clock
    epoch: int
    kind: str
    fields: dict[str, JSON] = field(default_factory=dict)
    stage_id: str | None = None
    attempt_id: str | None = None
    format: int = EVENT_FORMAT

    @property
    def id(self) -> str:
        return f"{self.run_id}/{self.sequence:08d}"


@dataclass(frozen=True, kw_only=True)
class _EventRecord:
    """The persisted form of an `Event`, without what follows from other fields."""

    format: Literal[1]
    run: str
    sequence: int
    time: float
    epoch: int
    stage: str | None
    attempt: str | None
    kind: str
    fields: JSONObject


def event_fields(fields: Mapping[str, JSON]) -> dict[str, JSON]:
    """The fields of an event without secrets and without what PostgreSQL or JSON cannot store."""
    storable = _storable(mask_secrets(dict(fields)))
    assert isinstance(storable, dict), "the shape of a mapping is kept"
    return storable


def _storable(value: JSON) -> JSON:
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # "nan", "inf", "-inf": JSON has no such numbers, and `float` reads them back
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {storable_text(name): _storable(item) for name, item in value.items()}
    return value


def storable_text(text: str) -> str:
    """`text` without what PostgreSQL cannot store: NUL and unpaired surrogates."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def flatten(value: JSON, path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path, text) of every leaf of a configuration; a list of plain values is one leaf."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from flatten(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from flatten(item, f"{path}.{index}")
    elif path:
        yield path, value if isinstance(value, str) else json.dumps(value)


def event_to_json(event: Event) -> dict[str, JSON]:
    """The persisted form of an event, used by the JSON-lines sink and in the store."""
    return {
        "format": event.format,
        "id": event.id,
        "run": event.run_id,
        "sequence": event.sequence,
        "time": event.time,
        "at": iso_time(event.time),
        "epoch": event.epoch,
        "stage": event.stage_id,
        "attempt": event.attempt_id,
        "kind": event.kind,
        "fields": event.fields,
    }


def event_from_json(line: Mapping[str, Any]) -> Event:
    """The event of a persisted line. Raises: NewerFormatError; CorruptArtifactError: not an event."""
    record = record_from_json(_EventRecord, line, f"event {line.get('id', '(without id)')}")
    return Event(
        run_id=record.run,
        sequence=record.sequence,
        time=record.time,
        epoch=record.epoch,
        kind=record.kind,
        fields=record.fields,
        stage_id=record.stage,
        attempt_id=record.attempt,
    )


def event_to_line(event: Event) -> str:
    """One line of JSON without the line end; keys are sorted, so equal events give equal bytes."""
    return json.dumps(event_to_json(event), sort_keys=True, separators=(",", ":"), allow_nan=False)
