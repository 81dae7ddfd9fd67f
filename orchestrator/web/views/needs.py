"""What waits for a person: "needs you"."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.errors import OrchestratorError
from orchestrator.failures.failure_class import FailureClass
from orchestrator.history.events import AttemptState
from orchestrator.history.run_status import RunStatus, StageStatus
from orchestrator.liveness.life_in_status import is_abandoned
from orchestrator.liveness.liveness import RunLife
from orchestrator.recipe.loading import Kinds
from orchestrator.scheduler.approving import approval_waits
from orchestrator.web.addresses import link
from orchestrator.workspace import Workspace

NeedKind = Literal["driver_gone", "gate_refused", "quarantine", "approval", "failed", "takedown"]
GATE_MARK = "gates."  # how a message of a refused gate names it
MAX_TEXT = 300  # characters


@dataclass(frozen=True, kw_only=True)
class Need:
    """One thing that goes on only when somebody acts."""

    kind: NeedKind
    title: str  # what happened, in a few words
    text: str  # the first line of what is known
    run: str  # empty for what concerns the store
    recipe: str
    stage: str
    link: str
    since: float  # seconds since 1970
    command: str  # that goes on


def needs_of_runs(statuses: Sequence[RunStatus], lives: Mapping[str, RunLife]) -> list[Need]:
    """The needs of these runs, those of the newest first. A run that was replaced by a newer one has none."""
    newest = {status.run.recipe: status.run.run_id for status in reversed(statuses)}
    found = [
        need
        for status in statuses
        if newest[status.run.recipe] == status.run.run_id or status.run.run_id in lives
        for need in _of_run(status, lives.get(status.run.run_id))
    ]
    return sorted(found, key=lambda need: -need.since)


def needs_of_takedowns(workspace: Workspace, kinds: Kinds) -> list[Need]:
    """Takedowns with something still to do, as `illume takedown list` tells it from records."""
    try:
        takedowns = read_takedowns(workspace.store)
        if not takedowns:
            return []
        from stages.provenance.receipt import make_receipt  # late: loads what reads datasets

        receipts = [make_receipt(workspace, kinds, known, search=False) for known in takedowns]
    except OrchestratorError:  # the store is away, which stands above every page
        return []
    return [
        Need(
            kind="takedown",
            title=f"takedown {receipt.takedown.id} is not complete",
            text="; ".join(receipt.open_points)[:MAX_TEXT],
            run="",
            recipe="",
            stage="",
            link=link("events", q=receipt.takedown.id),
            since=datetime.fromisoformat(receipt.takedown.created).timestamp(),
            command=f"illume takedown receipt {receipt.takedown.id}",
        )
        for receipt in receipts
        if receipt.open_points
    ]


def _of_run(status: RunStatus, life: RunLife | None) -> Iterator[Need]:
    run = status.run
    resume = f"illume resume {run.run_id}"
    if life is not None and is_abandoned(run.state, life):
        since = life.driver.since or run.updated_at
        yield _need(status, None, "driver_gone", "the driver is gone", life.describe(), since, resume)
    for stage in status.stages:
        if approval_waits(stage):
            since, approve = stage.waiting_since or run.updated_at, f"illume approve {run.run_id}:{stage.stage_id}"
            yield _need(status, stage, "approval", "waits for approval", stage.waiting_for, since, approve)
        if stage.state == AttemptState.FAILED and life is None:
            kind, title = kind_of_failure(stage)
            yield _need(status, stage, kind, title, stage.message, run.updated_at, resume)


def kind_of_failure(stage: StageStatus) -> tuple[NeedKind, str]:
    """What kind of need a failed stage is, and its title."""
    if GATE_MARK in stage.message:
        return "gate_refused", "a gate refused its output"
    if stage.failure_class == FailureClass.DATA_POISON:
        return "quarantine", "more was quarantined than the stage may leave out"
    return "failed", "failed"


def _need(
    status: RunStatus, stage: StageStatus | None, kind: NeedKind, title: str, text: str, since: float, command: str
) -> Need:
    run_id = status.run.run_id
    stage_id = stage.stage_id if stage else ""
    lines = text.strip().splitlines()
    return Need(
        kind=kind,
        title=title,
        text=lines[0][:MAX_TEXT] if lines else "",
        run=run_id,
        recipe=status.run.recipe,
        stage=stage_id,
        link=link("runs", run_id, "stages", stage_id) if stage_id else link("runs", run_id),
        since=since,
        command=command,
    )
