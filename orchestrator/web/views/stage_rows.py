"""The stages of a run as rows: state, reasons, attempts over time, waits, moments."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.history.events import AttemptState, Event, EventKind
from orchestrator.history.run_search import AttemptRow
from orchestrator.history.run_status import RunStatus, StageStatus
from orchestrator.queue.records import A_PERSON
from orchestrator.web.addresses import link
from orchestrator.web.plans import PlannedWork
from orchestrator.web.views.money import Cost, Prices, cost_of

# Kinds of events that a page marks as moments, with the fields that say what happened.
MARKS: Mapping[str, tuple[str, ...]] = {
    "worker_lost": ("failure", "message", "shard"),
    "quarantined": ("items", "first_reason", "shard"),
    "gate_broken": ("message",),
}
EXPLAINING = (EventKind.WAITING, EventKind.WAITED, EventKind.STAGE_REUSED, "shards_planned", *MARKS)
_CAPACITY = re.compile(r"\b(room|CPUs?|GPUs?|GiB|memory|nodes?|cluster|queue|quota)\b", re.IGNORECASE)
_AT_WORK = (AttemptState.INTENT, AttemptState.RUNNING)
ABANDONED = "ABANDONED"  # shown of what was at work when its driver went
MAX_MARKS = 200  # of a stage
MAX_TEXT = 300  # characters
WaitKind = Literal["capacity", "run", "person", "other"]
How = Literal["", "made", "reused", "made_by_another_run", "recovered"]


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A time in which a stage waited."""

    kind: WaitKind  # of what it waited for
    text: str
    since: float  # seconds since 1970
    until: float | None  # None: it waits now


@dataclass(frozen=True, kw_only=True)
class AttemptBar:
    attempt: str
    number: int
    epoch: int
    state: str
    began_at: float
    ended_at: float | None  # None: it is at work
    failure_class: str
    message: str  # its first line
    link: str  # to the stage's page with this attempt


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A moment: a worker that was lost, items that were quarantined."""

    sequence: int  # of the event
    kind: str
    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class StageRow:
    stage: str
    stage_kind: str
    state: str
    action: str  # of the plan
    how: How  # how its output came to be; empty: there is none yet
    shards_planned: int  # by the newest attempt, of all its maps
    shards_reused: int  # of them, those that existed
    reasons: tuple[str, ...]
    upstream: tuple[str, ...]
    done: int
    total: int
    unit: str
    rate_per_s: float
    eta_s: float | None
    elapsed_s: float | None
    silent_since: float | None  # its last report of progress, or its begin; None: it is not at work
    has_reported: bool  # progress, of the newest attempt
    message: str  # its first line
    waiting_for: str
    waiting_since: float | None
    attempts: tuple[AttemptBar, ...]
    waits: tuple[Wait, ...]
    marks: tuple[Mark, ...]
    cost: Cost  # so far
    link: str


def stage_rows(
    status: RunStatus,
    attempts: Sequence[AttemptRow],
    happened: Sequence[Event],
    work: Mapping[str, PlannedWork],
    prices: Prices,
    reports: Mapping[str, float],
    *,
    is_abandoned: bool = False,
) -> tuple[StageRow, ...]:
    """`happened`: the events of the kinds `EXPLAINING`. `reports`: by attempt, the time of its last report of progress.
    `is_abandoned`: nobody carries the run out any more."""
    return tuple(
        _row(
            status,
            stage,
            [row for row in attempts if row.stage_id == stage.stage_id],
            [event for event in happened if event.stage_id == stage.stage_id],
            work,
            prices,
            reports,
            is_abandoned=is_abandoned,
        )
        for stage in status.stages
    )


def _row(
    status: RunStatus,
    stage: StageStatus,
    attempts: Sequence[AttemptRow],
    happened: Sequence[Event],
    work: Mapping[str, PlannedWork],
    prices: Prices,
    reports: Mapping[str, float],
    *,
    is_abandoned: bool,
) -> StageRow:
    run = status.run
    planned = [event for event in happened if event.kind == "shards_planned" and event.attempt_id == stage.attempt_id]
    shards_reused = sum(_count(event, "reused") for event in planned)
    return StageRow(
        stage=stage.stage_id,
        stage_kind=stage.stage_kind,
        state=ABANDONED if is_abandoned and stage.state in _AT_WORK else stage.state,
        action=stage.action,
        how=_how(stage, happened, has_old_shards=shards_reused > 0),
        shards_planned=sum(_count(event, "shards") for event in planned),
        shards_reused=shards_reused,
        reasons=stage.reasons,
        upstream=stage.upstream,
        done=stage.done,
        total=stage.total,
        unit=stage.unit,
        rate_per_s=stage.rate_per_s,
        eta_s=stage.eta_s,
        elapsed_s=stage.elapsed_s,
        silent_since=silent_since(attempts, reports) if stage.state in _AT_WORK else None,
        has_reported=stage.attempt_id in reports,
        message=first_line(stage.message),
        waiting_for=stage.waiting_for,
        waiting_since=stage.waiting_since,
        attempts=tuple(attempt_bar(row) for row in attempts),
        waits=tuple(waits_of(happened, run.updated_at if stage.waiting_for == "" else None)),
        marks=tuple(marks_of(happened)),
        cost=cost_of(attempts, work, prices, run.updated_at),
        link=link("runs", run.run_id, "stages", stage.stage_id),
    )


def at_work(attempts: Sequence[AttemptRow]) -> list[AttemptRow]:
    return [row for row in attempts if row.state in _AT_WORK]


def silent_since(attempts: Sequence[AttemptRow], reports: Mapping[str, float]) -> float | None:
    """When something was last heard of the attempts at work: a report of progress, or their begin; None: none is."""
    heard = [reports.get(row.attempt_id, row.started_at or row.created_at) for row in at_work(attempts)]
    return max(heard, default=None)


def attempt_bar(row: AttemptRow) -> AttemptBar:
    return AttemptBar(
        attempt=row.attempt_id,
        number=row.number,
        epoch=row.epoch,
        state=row.state,
        began_at=row.started_at or row.created_at,
        ended_at=row.ended_at,
        failure_class=row.failure_class,
        message=first_line(row.message),
        link=link("runs", row.run_id, "stages", row.stage_id, attempt=row.number),
    )


def waits_of(happened: Sequence[Event], over_at: float | None) -> Iterator[Wait]:
    """The waits of one stage. `over_at`: until when one lasted whose end nobody recorded; None: it lasts."""
    open_: Event | None = None
    for event in happened:
        if event.kind not in (EventKind.WAITING, EventKind.WAITED):
            continue
        if open_ is not None:
            yield _wait(open_, event.time)
        open_ = event if event.kind == EventKind.WAITING and event.fields.get("for") else None
    if open_ is not None:
        yield _wait(open_, over_at)


def marks_of(happened: Sequence[Event]) -> list[Mark]:
    """The newest moments of one stage, oldest first."""
    found = [event for event in happened if event.kind in MARKS][-MAX_MARKS:]
    return [
        Mark(sequence=event.sequence, kind=event.kind, at=event.time, text=_mark_text(event)[:MAX_TEXT])
        for event in found
    ]


def first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:MAX_TEXT] if lines else ""


def _how(stage: StageStatus, happened: Sequence[Event], *, has_old_shards: bool) -> How:
    if stage.action == "reuse" and stage.attempt == 0:
        return "reused"
    if any(event.kind == EventKind.STAGE_REUSED for event in happened):
        return "made_by_another_run"
    if stage.state != AttemptState.COMMITTED:
        return ""
    return "recovered" if has_old_shards or stage.attempt > 1 else "made"


def _wait(begin: Event, until: float | None) -> Wait:
    text = str(begin.fields.get("for", ""))
    return Wait(kind=wait_kind(text), text=text, since=begin.time, until=until)


def wait_kind(text: str) -> WaitKind:
    """What kind of thing a stage waits for, as the words of who waits say it."""
    if text.startswith(A_PERSON):
        return "person"
    if text.startswith(("run ", "artifact ")):
        return "run"
    return "capacity" if _CAPACITY.search(text) else "other"


def _mark_text(event: Event) -> str:
    values = ((name, event.fields.get(name)) for name in MARKS[event.kind])
    return ", ".join(f"{name} {value}" for name, value in values if value not in (None, ""))


def _count(event: Event, name: str) -> int:
    value = event.fields.get(name)
    return value if isinstance(value, int) else 0
