"""`illume run`, `illume resume` and `illume cancel`."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import click

from orchestrator.artifact import Artifact
from orchestrator.commands.plan import print_plan, warn_of_code
from orchestrator.commands.shared.formatting import duration_text
from orchestrator.commands.shared.live_view import default_style, watching
from orchestrator.commands.shared.options import (
    Places,
    accept_taint_option,
    cluster_option,
    json_option,
    open_workspace,
    place_options,
    read_recipe,
    recipe_options,
    stage_kinds,
)
from orchestrator.commands.shared.targets import find_run
from orchestrator.commands.status import event_pages
from orchestrator.errors import EXIT_REQUEUE, RecipeError
from orchestrator.history.events import RunState
from orchestrator.history.lease_owners import is_gone
from orchestrator.history.run_status import RunSummary, newest_run, run_status
from orchestrator.planning.plan import Plan, PlanWishes, make_plan
from orchestrator.planning.plan_file import plan_to_json
from orchestrator.planning.store_view import plan_view
from orchestrator.workspace import Workspace

SHOW_CURSOR = "\x1b[?25h"
UNFINISHED = (RunState.PLANNED, RunState.RUNNING, RunState.STOPPING, RunState.INTERRUPTED, RunState.FAILED)


@click.command("run")
@recipe_options
@place_options
@cluster_option
@json_option
def run_command(
    recipe: str,
    overrides: tuple[str, ...],
    wishes: PlanWishes,
    places: Places,
    profile: str | None,
    as_json: bool,
) -> None:
    """Carry out a recipe. What exists is reused; a run of the same plan that was cut off is continued.

    RECIPE is a file or the name of a built-in recipe. Ctrl-C stops at the next commit point, a second Ctrl-C at once;
    running again continues either way.
    """
    parsed = read_recipe(recipe, overrides)
    with open_workspace(places, profile) as workspace:
        plan = make_plan(parsed, plan_view(workspace.artifacts, workspace.database), wishes)
        warn_of_code(plan)
        finished = _finished_run(workspace, plan)
        if finished is not None:
            click.echo(f"nothing to run: everything exists since run {finished.run_id}", err=as_json)
            return
        begun = _begun_run(workspace, plan)
        if begun is not None:
            click.echo(f"continuing run {begun.run_id}, which was cut off", err=True)
            resume = partial(workspace.resume, begun.run_id, stage_kinds(), accept_taint=wishes.accept_taint)
            carry_out(workspace, resume, as_json=as_json)
            return
        if not as_json:
            print_plan(plan)
        carry_out(workspace, partial(workspace.run_recipe, plan), as_json=as_json)


@click.command("resume")
@click.argument("run", required=False)
@place_options
@cluster_option
@accept_taint_option
@json_option
def resume_command(run: str | None, places: Places, profile: str | None, accept_taint: bool, as_json: bool) -> None:
    """Continue a run with the plan it was started with, under the same id.

    RUN is a run's id, the start of one, or a recipe's name. Default: the newest run.
    """
    with open_workspace(places, profile) as workspace:
        found = find_run(workspace.database, run)
        if found.state is RunState.SUCCEEDED:
            click.echo(f"run {found.run_id} is done; `illume run` makes a new plan", err=as_json)
            return
        resume = partial(workspace.resume, found.run_id, stage_kinds(), accept_taint=accept_taint)
        carry_out(workspace, resume, as_json=as_json)


@click.command("cancel")
@click.argument("run", required=False)
@place_options
def cancel_command(run: str | None, places: Places) -> None:
    """Ask a run to stop at its next commit point. What was committed is kept; `illume resume` continues.

    Default: the newest run.
    """
    with open_workspace(places) as workspace:
        found = find_run(workspace.database, run)
        if found.state not in UNFINISHED[:3]:
            raise RecipeError(f"run {found.run_id}: found it {found.state.lower()}, so there is nothing to stop")
        workspace.cancel(found.run_id)
        click.echo(f"run {found.run_id}: asked to stop; follow it with `illume status -f {found.run_id}`")


def carry_out(workspace: Workspace, start: Callable[..., Mapping[str, Artifact]], *, as_json: bool) -> None:
    """Run what `start` starts in this process, show it, and let signals stop it."""
    started: list[str] = []
    with ExitStack() as stack:
        stop = stack.enter_context(stopping_on_signals())

        def show(run_id: str) -> None:
            started.append(run_id)
            stack.enter_context(shown(workspace, run_id, as_json=as_json))

        start(stop=stop, started=show)
    for run_id in started:
        status = run_status(workspace.database, run_id)
        spent = duration_text(status.run.updated_at - status.run.created_at)
        click.echo(f"run {run_id} is done, {spent} after its start", err=as_json)


def shown(workspace: Workspace, run_id: str, *, as_json: bool) -> AbstractContextManager[None]:
    """What happens from now on; earlier epochs of a run are not told again."""
    last = run_status(workspace.database, run_id).run
    after = last.last_event if last.epoch else 0
    pages = event_pages(workspace.runs, run_id)
    return watching(workspace.database, run_id, default_style(as_json=as_json), pages, after=after)


@contextmanager
def stopping_on_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second ends the process."""
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            end_at_once()
        stop.set()
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        click.echo(f"\n{name}: stopping at the next commit point; once more stops at once", err=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once() -> NoReturn:
    """End without waiting for stages, sinks or Ray, as safely as being killed: a local Ray ends with its driver."""
    click.echo("stopped at once; what was committed is kept, running again continues", err=True)
    if sys.stdout.isatty():
        click.echo(SHOW_CURSOR, nl=False)  # the live table hides it
    sys.stdout.flush()
    os._exit(EXIT_REQUEUE)


def _finished_run(workspace: Workspace, plan: Plan) -> RunSummary | None:
    """The newest run of the recipe, if there is nothing to run and it is a finished run of these very artifacts."""
    newest = newest_run(workspace.database, recipe=plan.recipe)
    if plan.to_run or newest is None or newest.state is not RunState.SUCCEEDED:
        return None
    known = {(stage.stage_id, stage.fingerprint) for stage in run_status(workspace.database, newest.run_id).stages}
    return newest if {(stage.id, str(stage.fingerprint)) for stage in plan.stages} <= known else None


def _begun_run(workspace: Workspace, plan: Plan) -> RunSummary | None:
    """The newest run of the recipe, if it was cut off and what is missing now is part of its plan."""
    newest = newest_run(workspace.database, recipe=plan.recipe)
    if newest is None or newest.state not in UNFINISHED or any(stage.redo for stage in plan.stages):
        return None  # what is to be made again is only known to the new plan
    holder = workspace.leases.holder(f"run:{newest.run_id}")
    if holder is not None and not is_gone(holder.owner):
        return None  # another driver is at work; ours waits for its artifacts where they are the same
    begun = workspace.records.plan(newest.plan_digest)
    return newest if begun is not None and _covers(begun, plan) else None


def _covers(begun: Mapping[str, Any], plan: Plan) -> bool:
    """True if carrying out the begun plan makes what is missing now, with the resources and places of today."""
    then = {stage["id"]: stage for stage in begun["stages"]}
    if set(then) != {stage.id for stage in plan.stages}:
        return False
    to_run = {stage.id for stage in plan.to_run}
    stages: Any = plan_to_json(plan)["stages"]
    for now in stages:
        checked = ("fingerprint", "config", "resources", "retry") if now["id"] in to_run else ("fingerprint",)
        if any(then[now["id"]].get(key) != now[key] for key in (*checked, "gates")):
            return False
    return all(then[stage_id]["action"] == "run" for stage_id in to_run)
