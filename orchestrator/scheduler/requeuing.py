"""Queues what ran before: a run goes on with its plan, or its stages are planned anew. Called by the command and pages.

A run that was started without the queue ran where its command said, which no record holds. It is queued for the machine
of the server only if it needs no more than that.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.attempt_id import AttemptId
from orchestrator.errors import RecipeError
from orchestrator.history.events import RunState
from orchestrator.history.run_search import attempts_of_runs
from orchestrator.history.run_status import RunSummary, run_status
from orchestrator.history.run_store import AlreadyDoneError, StateConflictError
from orchestrator.liveness.job_records import JobRecords
from orchestrator.liveness.liveness import UNFINISHED, DriverState
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.plan_file import plan_digest
from orchestrator.planning.store_view import plan_view
from orchestrator.queue.entries import submission_of
from orchestrator.queue.records import THIS_MACHINE, Limits, PoolRecord, Submission, current_person
from orchestrator.recipe.loading import Kinds
from orchestrator.scheduler.submitting import estimate_s, same_in_queue, stage_needs, submit
from orchestrator.stage import Recipe
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace, new_run_id


@dataclass(frozen=True, kw_only=True)
class QueuedFor:
    """Where a run is to go, and what it may spend."""

    cluster: str = ""  # as of a submission
    pool: PoolRecord | None = field(default_factory=lambda: PoolRecord(name=THIS_MACHINE))
    limits: Limits = field(default_factory=Limits)
    prices: Mapping[str, float | None] = field(default_factory=dict)  # of an accelerator hour, by stage


def queue_rest(workspace: Workspace, run_id: str, kinds: Kinds, *, where: QueuedFor | None = None) -> None:
    """Queue a run that has not succeeded, so that a server goes on with its plan. What it did is kept.

    `where`: for a run that was started without the queue; else its submission says it.

    Raises:
        RecipeError: its plan is gone or its stage kinds have changed, or nobody knows on which cluster it ran.
        StateConflictError: it has succeeded, or is at work.
        AlreadyDoneError: it is in the queue already.
    """
    run = run_status(workspace.database, run_id).run
    if run.state is RunState.SUCCEEDED:
        raise StateConflictError(f"run {run_id}: has succeeded; there is nothing to go on with")
    if run.state in UNFINISHED and workspace.liveness.run(run_id).driver.state is DriverState.ALIVE:
        raise StateConflictError(f"run {run_id}: is at work; there is nothing to resume")
    plan = workspace.plan_of(run_id, kinds)
    submission = submission_of(workspace.database, run_id)
    if submission is not None and where is not None:
        raise RecipeError(f"run {run_id}: was submitted with its own cluster and budget; queue it without another one")
    if submission is None:
        submission = _submission(plan, run, where or _this_machine(workspace, run_id, plan))
    if not submit(workspace, plan, submission):
        raise AlreadyDoneError(f"run {run_id}: is in the queue already; nothing more was done")


def queue_anew(workspace: Workspace, run_id: str, kinds: Kinds, *, where: QueuedFor | None = None) -> str:
    """Queue a new run of the stages of a run, planned anew: what exists is reused. Returns its id.

    Raises:
        RecipeError: as `queue_rest`.
        StateConflictError: everything exists already.
        AlreadyDoneError: a run in the queue makes the same.
    """
    run = run_status(workspace.database, run_id).run
    before = workspace.plan_of(run_id, kinds)
    recipe = Recipe(name=before.recipe, stages=tuple(stage.spec for stage in before.stages), file=before.file)
    plan = make_plan(recipe, plan_view(workspace.artifacts, workspace.database))
    if not plan.to_run:
        raise StateConflictError(f"run {run_id}: all that its stages make exists; there is nothing to run")
    if (same := same_in_queue(workspace, plan)) is not None:
        raise AlreadyDoneError(
            f"run {same.run_id} of {same.submission.person} is in the queue already and makes the same; nothing was "
            "queued"
        )
    known = submission_of(workspace.database, run_id)
    where = where or (_where_of(known) if known is not None else _this_machine(workspace, run_id, plan))
    new = replace(run, run_id=new_run_id(), plan_digest=plan_digest(plan))
    submit(workspace, plan, _submission(plan, new, where))
    return new.run_id


def _submission(plan: Plan, run: RunSummary, where: QueuedFor) -> Submission:
    return Submission(
        at=iso_time(time.time()),
        run_id=run.run_id,
        recipe=plan.recipe,
        plan_digest=run.plan_digest,
        person=current_person(),
        cluster=where.cluster,
        pool=where.pool,
        stages=stage_needs(plan, where.prices),
        estimate_s=estimate_s(plan),
        limits=where.limits,
    )


def _where_of(submission: Submission) -> QueuedFor:
    prices = {need.stage_id: need.price_per_gpu_hour for need in submission.stages}
    return QueuedFor(cluster=submission.cluster, pool=submission.pool, limits=submission.limits, prices=prices)


def _this_machine(workspace: Workspace, run_id: str, plan: Plan) -> QueuedFor:
    """Raises: RecipeError: the run may have been on a cluster."""
    newest = {row.stage_id: row for row in attempts_of_runs(workspace.database, [run_id])[run_id]}
    ids = (
        AttemptId(run_id=run_id, stage_id=row.stage_id, epoch=row.epoch, name=row.attempt_id) for row in newest.values()
    )
    was_job = any(JobRecords(store=workspace.store, attempt=attempt).is_announced() for attempt in ids)
    if was_job or any(stage.spec.resources.gpus for stage in plan.to_run):
        raise RecipeError(
            f"run {run_id}: was started without the queue, as jobs of a cluster or with accelerators, and no record "
            f"says where: `illume requeue {run_id} --cluster PROFILE`, or, without a server, `illume resume {run_id} "
            "--cluster PROFILE`"
        )
    return QueuedFor()
