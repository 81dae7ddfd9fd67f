"""Puts a plan into the queue: its record first, then the run."""

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.errors import RecipeError
from orchestrator.history.open_attempts import run_state
from orchestrator.history.queued_again import queue_again
from orchestrator.history.run_store import RUN_ENDS
from orchestrator.planning.plan import Plan, check_needs, run_prechecks
from orchestrator.planning.plan_file import plan_digest, stages_with_secrets
from orchestrator.queue.amounts import need_of
from orchestrator.queue.entries import Entry, open_entries
from orchestrator.queue.records import StageNeed, Submission
from orchestrator.queue.rows import FIRST, add_record
from orchestrator.workspace import Workspace


def submit(workspace: Workspace, plan: Plan, submission: Submission) -> bool:
    """Queue a run, or one that has ended without success again. False: it is in the queue already.

    Can be repeated at any moment, also by another process.

    Raises:
        RecipeError: a stage has a secret in its configuration, which no record holds.
        PrecheckError: a stage cannot work.
    """
    for stage_id in stages_with_secrets(plan):
        raise RecipeError(
            f"stages.{stage_id}.config: holds a secret, which the queue does not keep; let the stage read it from the "
            "environment, or use `illume run`"
        )
    check_needs(plan)
    run_prechecks(plan)
    workspace.prepare_store(plan)
    workspace.create_run(plan, submission.run_id, {"queued": True})  # first: what is on record has its plan
    had_ended = run_state(workspace.database, submission.run_id) in RUN_ENDS
    is_new = add_record(workspace.store, workspace.database, "submissions", submission.run_id, submission, number=FIRST)
    is_again = queue_again(workspace.database, submission.run_id)
    workspace.deliver(submission.run_id)
    return is_again if had_ended else is_new


def stage_needs(plan: Plan, prices: Mapping[str, float | None] = MappingProxyType({})) -> tuple[StageNeed, ...]:
    """What the stages to run take. `prices`: of an accelerator hour, by stage; unknown for those that it lacks."""
    needs = []
    for stage in plan.to_run:
        need = need_of(stage.spec.resources)
        needs.append(
            StageNeed(
                stage_id=stage.id,
                fingerprint=stage.fingerprint,
                cpus=need.cpus,
                gpus=need.gpus,
                memory_gib=need.memory_gib,
                price_per_gpu_hour=prices.get(stage.id) if need.gpus else None,
            )
        )
    return tuple(needs)


def estimate_s(plan: Plan) -> float | None:
    """Of all stages one after the other, from earlier runs; None: one of them was never timed."""
    times = [stage.estimate_s for stage in plan.to_run]
    return None if None in times else sum(time_s for time_s in times if time_s is not None)


def same_in_queue(workspace: Workspace, plan: Plan) -> Entry | None:
    """The entry that makes exactly what the plan makes."""
    digest, wanted = plan_digest(plan), {stage.fingerprint for stage in plan.to_run}
    for entry in open_entries(workspace.database):
        submission = entry.submission
        made = {need.fingerprint for need in submission.stages}
        if submission.plan_digest == digest or (submission.recipe == plan.recipe and wanted and wanted <= made):
            return entry
    return None
