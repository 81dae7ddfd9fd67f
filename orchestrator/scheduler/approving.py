"""The word of a person that a stage may start. Called by the command line and by the page of a run."""

import time
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import RecipeError
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.run_status import StageStatus, run_status
from orchestrator.history.run_store import AlreadyDoneError, StateConflictError
from orchestrator.queue.records import A_PERSON, Approval
from orchestrator.queue.rows import FIRST, add_record, copy_missing, newest_of
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace

_WAITING = (RunState.PLANNED, RunState.RUNNING, RunState.STOPPING, RunState.INTERRUPTED)


def approve(workspace: Workspace, run_id: str, stage_id: str, note: str) -> Approval:
    """Let a stage start. Also before it waits, so that it never does.

    Raises:
        RecipeError: the note is empty, or there is no such stage, or it asks nobody.
        StateConflictError: the run has ended, or the stage is done.
        AlreadyDoneError: somebody has approved it; the first one is on record.
    """
    if not note.strip():
        raise RecipeError("approve: found no note, expected what was looked at")
    status = run_status(workspace.database, run_id)
    subject = f"{run_id}:{stage_id}"
    stage = next((stage for stage in status.stages if stage.stage_id == stage_id), None)
    if stage is None or stage_id not in asking_stages(workspace, status.run.plan_digest):
        raise RecipeError(f"{subject}: asks nobody: its recipe has no `approval: true` there; nothing was approved")
    if (first := newest_of(workspace.database, Approval, subject)) is not None:
        raise AlreadyDoneError(_approved_by(subject, first[1]))
    if status.run.state not in _WAITING:
        raise StateConflictError(
            f"{subject}: its run is {status.run.state}, so that nothing waits; `illume resume {run_id}` continues it"
        )
    if stage.state == AttemptState.COMMITTED:
        raise StateConflictError(f"{subject}: is done already, so that it does not wait")
    approval = Approval(at=iso_time(time.time()), note=note.strip())
    if not add_record(workspace.store, workspace.database, "approvals", subject, approval, number=FIRST):
        copy_missing(workspace.store, workspace.database)  # the other one may not have come to its row yet
        first = newest_of(workspace.database, Approval, subject)
        raise AlreadyDoneError(_approved_by(subject, first[1]) if first else f"{subject}: was approved already")
    return approval


def asking_stages(workspace: Workspace, plan_digest: str) -> list[str]:
    """The stages of a plan that wait for the word of a person."""
    plan: Mapping[str, Any] = workspace.records.plan(plan_digest) or {}
    return [str(stage["id"]) for stage in plan.get("stages", []) if stage.get("approval")]


def approval_waits(stage: StageStatus) -> bool:
    """Whether a stage waits for a person now."""
    return stage.waiting_for.startswith(A_PERSON)


def _approved_by(subject: str, approval: Approval) -> str:
    return f"{subject}: {approval.by.name} has approved it already, at {approval.at}: {approval.note}"
