"""`illume run`, `illume resume` and `illume cancel`: starts, continues and stops runs."""

import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial

import click

from clusters.planner.prices import load_prices
from clusters.planner.recipes import refuse_what_cannot_fit
from clusters.profiles import machines_of, profile_at
from orchestrator.artifact import Artifact
from orchestrator.attempt_id import AttemptId
from orchestrator.commands.logs import event_pages
from orchestrator.commands.plan import print_plan, warn_absent, warn_of_changed_code
from orchestrator.commands.shared.formatting import duration_text
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.live_view import default_style, show_live
from orchestrator.commands.shared.options import (
    Locations,
    accept_taint_option,
    cluster_option,
    detach_option,
    examples,
    json_option,
    location_options,
    open_workspace,
    plugin_option,
    read_recipe,
    reason_option,
    recipe_options,
    run_argument,
    stage_kinds,
)
from orchestrator.commands.shared.outcome import next_commands, outcome_lines, summaries_of
from orchestrator.commands.shared.stopping import StopSignals, grace_s
from orchestrator.commands.shared.targets import Target, find_run
from orchestrator.continuation import ACTIVE, finished_run, interrupted_run
from orchestrator.errors import CancelledError, OrchestratorError, RecipeError, StageFailedError
from orchestrator.execution.cancelling import Cancellation
from orchestrator.execution.job_attempt import stage_driver_arguments
from orchestrator.execution.room import job_size
from orchestrator.history.changes import record_change
from orchestrator.history.database.database import database_exists
from orchestrator.history.events import RunState
from orchestrator.history.run_status import run_status
from orchestrator.installation.version import version
from orchestrator.liveness.job_records import job_id_of
from orchestrator.planning.plan import Plan, PlanOptions, make_plan
from orchestrator.planning.plan_file import plan_digest
from orchestrator.planning.store_view import plan_view
from orchestrator.workspace import Workspace

log = logging.getLogger(__name__)

CANCEL_PATIENCE_S = 30.0  # how long a cancel without a driver waits for jobs to stop


@click.command(
    "run",
    epilog=examples(
        "run quickstart",
        "run my.yaml --set stages.curated.config.min_side=40",
        "run my.yaml --until curated",
        "run my.yaml --store s3://bucket/prefix --cluster http://head:8265",
    ),
)
@recipe_options
@location_options
@cluster_option
@detach_option
@click.option("--dry-run", is_flag=True, help="Print what would be sent to the cluster, and send nothing.")
@reason_option
@json_option
def run_command(
    recipe: str,
    overrides: tuple[str, ...],
    options: PlanOptions,
    locations: Locations,
    profile: str | None,
    detach: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a recipe. Existing artifacts are reused; an interrupted run of the same plan is continued.

    RECIPE is a file or the name of a built-in recipe. Ctrl-C stops at the next commit point, a second Ctrl-C at once;
    running again continues either way. SIGTERM does the same, but leaves stages running that are jobs of a cluster.
    """
    with StopSignals() as signals:
        parsed = read_recipe(recipe, overrides)  # before a workspace is made
        with open_workspace(locations, profile, create=not dry_run) as workspace:
            check_detach(workspace, detach=detach)
            on_absent = warn_absent if dry_run else None
            plan = make_plan(parsed, plan_view(workspace.artifacts, workspace.database, on_absent=on_absent), options)
            warn_of_changed_code(plan)
            if dry_run:
                print_jobs(workspace, plan)
                return
            finished = finished_run(workspace, plan)
            if finished is not None:
                click.echo(f"nothing to run: everything exists since run {finished.run_id}", err=as_json)
                return
            record_change(workspace.store, "gate_override", gate_overrides(overrides))
            interrupted = interrupted_run(workspace, plan, stage_kinds())
            if interrupted is not None:
                click.echo(f"continuing run {interrupted.run_id}, which was interrupted", err=True)
                resume = partial(
                    workspace.resume, interrupted.run_id, stage_kinds(), accept_taint=options.accept_taint, secrets=plan
                )
                run_and_show(workspace, resume, signals, as_json=as_json, detach=detach)
                return
            if profile is not None:
                refuse_what_cannot_fit(plan, machines_of(profile_at(profile)), load_prices())
            if not as_json:
                print_plan(plan)
            run_and_show(workspace, partial(workspace.run_recipe, plan), signals, as_json=as_json, detach=detach)


@click.command("resume", epilog=examples("resume # the newest run", "resume quickstart --cluster profile.yaml"))
@run_argument
@location_options
@cluster_option
@accept_taint_option
@detach_option
@reason_option
@plugin_option
@json_option
def resume_command(
    run: str | None, locations: Locations, profile: str | None, accept_taint: bool, detach: bool, as_json: bool
) -> None:
    """Continue a run with the plan it was started with, under the same id.

    RUN is a run's id, a prefix of one, a recipe's name for its newest run, or `last`. Default: the newest run.
    """
    is_elsewhere = bool(locations.database) and database_exists(str(locations.database))
    # A new machine may continue a run, so the workspace may be new.
    with StopSignals() as signals, open_workspace(locations, profile, create=is_elsewhere) as workspace:
        check_detach(workspace, detach=detach)
        found = find_run(workspace.database, run)
        if found.state is RunState.SUCCEEDED:
            click.echo(f"run {found.run_id} is done; `illume run` makes a new plan", err=as_json)
            return
        resume = partial(workspace.resume, found.run_id, stage_kinds(), accept_taint=accept_taint)
        run_and_show(workspace, resume, signals, as_json=as_json, detach=detach)


@click.command("cancel", epilog=examples("cancel", "cancel quickstart"))
@run_argument
@location_options
@cluster_option
@reason_option
@json_option
def cancel_command(run: str | None, locations: Locations, profile: str | None, as_json: bool) -> None:
    """Ask a run to stop at its next commit point. Committed work is kept; `illume resume` continues.

    Works without a driver, too: jobs that outlived theirs are asked to stop, and the run is recorded as cancelled.
    With --cluster, jobs that the cluster does not know any more count as ended. Default: the newest run.
    """
    with open_workspace(locations, profile) as workspace:
        found = find_run(workspace.database, run)
        if found.state not in ACTIVE and not workspace.liveness.run(found.run_id).attempts:
            raise RecipeError(f"run {found.run_id}: found it {found.state}, so there is nothing to stop")
        cancellation = workspace.cancel(found.run_id, patience_s=CANCEL_PATIENCE_S)
        if as_json:
            found_life = cancellation.life.describe()
            echo_json(
                "cancel",
                {"run_id": found.run_id, "end": cancellation.end, "jobs": cancellation.jobs, "found": found_life},
            )
        else:
            click.echo(cancellation_text(found.run_id, cancellation))


def gate_overrides(overrides: Sequence[str]) -> list[str]:
    """Those of the `PATH=VALUE` of `--set` that change a gate."""
    return [override for override in overrides if override.split("=")[0].split(".")[2:3] == ["gates"]]


def cancellation_text(run_id: str, cancellation: Cancellation) -> str:
    """What a cancel did, for people."""
    follow = f"follow it with `illume status -f {run_id}`"
    if cancellation.end == "asked":
        return f"run {run_id}: asked to stop; {follow}"
    found = cancellation.life.describe()
    if cancellation.end == "cancelled":
        return f"run {run_id}: {found}; cancelled without it, `illume resume {run_id}` continues"
    jobs = ", ".join(cancellation.jobs)
    again = f"`illume cancel {run_id}` again records their end"
    return f"run {run_id}: {found}; asked to stop, and not ended yet: {jobs}; {again}"


def check_detach(workspace: Workspace, *, detach: bool) -> None:
    """Raises: RecipeError: `--detach` without a cluster whose stages outlive this process."""
    if detach and workspace.cluster.jobs is None:
        raise RecipeError("--detach: stages run in this process and end with it; use a cluster profile of Ray jobs")


def print_jobs(workspace: Workspace, plan: Plan) -> None:
    """Print the job of each stage that would run. Raises: RecipeError: no cluster takes stages as jobs."""
    jobs = workspace.cluster.jobs
    if jobs is None:
        raise RecipeError("--dry-run: nothing is sent; stages run in this process. Name a cluster that takes jobs")
    for stage in plan.to_run:
        attempt = AttemptId.of("RUN", stage.id, epoch=1, number=1)
        arguments = stage_driver_arguments(
            attempt, plan_digest(plan), workspace.store.url, controller_version=version()
        )
        metadata = {"run": attempt.run_id, "stage": stage.id}
        launcher = jobs.sized(job_size(stage.spec.resources))
        click.echo(f"# {stage.id}\n{launcher.preview(job_id_of(attempt), arguments, metadata)}\n---")


def run_and_show(
    workspace: Workspace,
    start: Callable[..., Mapping[str, Artifact]],
    signals: StopSignals,
    *,
    as_json: bool,
    detach: bool = False,
) -> None:
    """Call `start` to run in this process, show the run, and stop it on signals.

    `start` takes `stops`, and `on_started`, to call with the run's id. `detach`: leave jobs running on Ctrl-C too.
    """
    started: list[str] = []
    detaching = {signal.SIGTERM, signal.SIGHUP} if workspace.cluster.jobs is not None else set()
    signals.grace_s = grace_s(workspace.cluster.stop_grace_s)
    with ExitStack() as stack:

        def show(run_id: str) -> None:
            signals.begin(detaching=detaching | ({signal.SIGINT} if detach else set()))
            started.append(run_id)
            stack.enter_context(show_run_live(workspace, run_id, as_json=as_json))

        try:
            start(stops=signals.events, on_started=show)
        except (StageFailedError, CancelledError):
            stack.close()  # the live view ends before the outcome is shown
            for run_id in started:
                _show_outcome(workspace, run_id, to_stderr=True)
            raise
    for run_id in started:
        status = run_status(workspace.database, run_id)
        spent = duration_text(status.run.updated_at - status.run.created_at)
        click.echo(f"run {run_id} is done, {spent} after its start", err=as_json)
        _show_outcome(workspace, run_id, to_stderr=as_json)


def _show_outcome(workspace: Workspace, run_id: str, *, to_stderr: bool) -> None:
    """What came out of the run, where it is, and what to type next. Never fails: the run is over."""
    try:
        target = Target(status=run_status(workspace.database, run_id), stage_id=None)
        summaries = summaries_of(workspace, target, stage_kinds())
    except OrchestratorError as error:
        log.warning("cannot show what came out: %s", error)
        return
    steps = [f"  {step}" for step in next_commands(workspace, target, summaries)]
    click.echo("\n".join([*outcome_lines(summaries), "next:", *steps]), err=to_stderr)


def show_run_live(workspace: Workspace, run_id: str, *, as_json: bool) -> AbstractContextManager[None]:
    """A live view of the run from now on, without the events of its earlier epochs."""
    last = run_status(workspace.database, run_id).run
    after = last.last_event if last.epoch else 0
    pages = event_pages(workspace.runs, run_id)
    return show_live(workspace.database, run_id, default_style(as_json=as_json), pages, after=after)
