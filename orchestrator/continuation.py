"""What running a plan comes to: everything exists, an interrupted run can be continued, or a new run is needed.

Asked by every door that runs recipes, so that all of them continue the same runs.
"""

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import RecipeError
from orchestrator.history.events import RunState
from orchestrator.history.lease_owners import is_gone
from orchestrator.history.run_status import RunSummary, newest_run, run_status
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_from_json, plan_to_json
from orchestrator.recipe.loading import Kinds
from orchestrator.workspace import Workspace

EXECUTION_SECTIONS = ("config", "execution", "resources", "retry")  # of a stage that runs; the config: its locations
ACTIVE = (RunState.PLANNED, RunState.RUNNING, RunState.STOPPING)
UNFINISHED = (*ACTIVE, RunState.INTERRUPTED, RunState.FAILED)


def finished_run(workspace: Workspace, plan: Plan) -> RunSummary | None:
    """The newest run of the recipe, if it succeeded with exactly these artifacts and there is nothing to run."""
    newest = newest_run(workspace.database, recipe=plan.recipe)
    if plan.to_run or newest is None or newest.state is not RunState.SUCCEEDED:
        return None
    known = {(stage.stage_id, stage.fingerprint) for stage in run_status(workspace.database, newest.run_id).stages}
    return newest if {(stage.id, str(stage.fingerprint)) for stage in plan.stages} <= known else None


def interrupted_run(workspace: Workspace, plan: Plan, kinds: Kinds) -> RunSummary | None:
    """The newest run of the recipe, if it did not finish and its plan covers what is missing now."""
    newest = newest_run(workspace.database, recipe=plan.recipe)
    if newest is None or newest.state not in UNFINISHED or any(stage.redo for stage in plan.stages):
        return None  # only the new plan knows what must be made again
    holder = workspace.leases.holder(f"run:{newest.run_id}")
    if holder is not None and not is_gone(holder.owner):
        return None  # another driver runs it; this one waits for its artifacts where they are the same
    saved_plan = workspace.records.plan(newest.plan_digest)
    return newest if saved_plan is not None and _covers(saved_plan, plan, kinds) else None


def _covers(saved_plan: Mapping[str, Any], plan: Plan, kinds: Kinds) -> bool:
    """True if running the interrupted plan makes what is missing now, with the current resources and locations."""
    try:  # read as plan and written again, so that a setting that did not exist then has its default
        decoded = plan_from_json(saved_plan, kinds, allow_changed_kinds=True)
    except RecipeError:
        return False
    saved_stages: Any = plan_to_json(decoded)["stages"]
    saved = {stage["id"]: stage for stage in saved_stages}
    now = plan_to_json(plan)
    if set(saved) != {stage.id for stage in plan.stages} or saved_plan.get("plugins") != now.get("plugins"):
        return False
    to_run = {stage.id for stage in plan.to_run}
    stages: Any = now["stages"]
    for stage in stages:
        checked = ("fingerprint", *EXECUTION_SECTIONS) if stage["id"] in to_run else ("fingerprint",)
        if any(saved[stage["id"]].get(key) != stage[key] for key in (*checked, "gates")):
            return False
    return all(saved[stage_id]["action"] == "run" for stage_id in to_run)
