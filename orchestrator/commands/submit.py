"""`illume submit`: queues a recipe for a server to run."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from clusters.connect import connect
from clusters.planner.machines import MachineType
from clusters.planner.prices import BUILT_IN, Prices, money
from clusters.planner.recipes import refuse_what_cannot_fit
from clusters.profiles import Profile, machines_of, profile_at
from clusters.shared import pool_of
from orchestrator.commands.plan import print_plan, warn_of_changed_code
from orchestrator.commands.run import gate_overrides
from orchestrator.commands.shared.budget_options import PRIORITY, budget_option, check_budget, current_prices
from orchestrator.commands.shared.completion import complete_run
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    cluster_option,
    examples,
    json_option,
    location_options,
    open_workspace,
    plugin_option,
    read_recipe,
    reason_option,
    recipe_options,
    stage_kinds,
)
from orchestrator.commands.shared.targets import find_run
from orchestrator.continuation import finished_run, interrupted_run
from orchestrator.errors import RecipeError
from orchestrator.execution.room import check_jobs
from orchestrator.history.changes import record_change
from orchestrator.history.database.database import Database
from orchestrator.planning.plan import Plan, PlanOptions, make_plan
from orchestrator.planning.plan_file import plan_digest
from orchestrator.planning.store_view import plan_view
from orchestrator.queue.entries import Entry
from orchestrator.queue.records import Limits, Submission, current_person
from orchestrator.recipe.yaml_subset import read_text
from orchestrator.scheduler.requeuing import QueuedFor, queue_anew, queue_rest
from orchestrator.scheduler.submitting import estimate_s, same_in_queue, stage_needs, submit
from orchestrator.stage import Recipe
from orchestrator.times import iso_time
from orchestrator.workspace import new_run_id


@click.command(
    "submit",
    epilog=examples(
        "submit my.yaml --cluster profile.yaml",
        "submit my.yaml --cluster slurm.yaml --priority 5 --after 20260504-101500-a1b2c3",
        "submit my.yaml --cluster profile.yaml --budget gpu_hours=200 --budget money=900",
    ),
)
@recipe_options
@location_options
@cluster_option
@click.option(
    "--priority", type=PRIORITY, default=0, show_default=True, help="A higher one goes first, and may take the room."
)
@click.option("--after", multiple=True, metavar="RUN", help="Wait until this run has succeeded.")
@budget_option
@click.option("--prices", "prices_file", type=Path, default=BUILT_IN, help="A price file of yours.", show_default=False)
@reason_option
@json_option
def submit_command(
    recipe: str,
    overrides: tuple[str, ...],
    options: PlanOptions,
    locations: Locations,
    profile: str | None,
    priority: int,
    after: tuple[str, ...],
    budget: Limits,
    prices_file: Path,
    as_json: bool,
) -> None:
    """Queue RECIPE; a server (`illume serve --scheduler`) runs it when it is its turn. Starts nothing.

    What cannot work is refused now: a stage that fits no machine, a queue or partition that does not exist, a budget
    below the estimate. `illume queue` shows its place.
    """
    prices = current_prices(prices_file, budget)
    cluster = None if profile is None else profile_at(profile)
    parsed = read_recipe(recipe, overrides)
    with open_workspace(locations, create=True) as workspace:
        followed = tuple(find_run(workspace.database, name).run_id for name in after)
        plan = make_plan(parsed, plan_view(workspace.artifacts, workspace.database), options)
        warn_of_changed_code(plan)
        if (done := finished_run(workspace, plan)) is not None:
            _report(plan, None, is_new=False, text=f"nothing to run: everything exists since run {done.run_id}",
                    as_json=as_json)  # fmt: skip
            return
        if (same := same_in_queue(workspace, plan)) is not None:
            refuse_other_options(same, priority=priority, limits=budget, after=followed)
            text = f"run {same.run_id} of {same.submission.person} is in the queue already and makes the same"
            _report(plan, same.run_id, is_new=False, text=text, as_json=as_json)
            return
        check_cluster(plan, cluster, budget, prices, workspace.database)
        record_change(workspace.store, "gate_override", gate_overrides(overrides))
        continued = interrupted_run(workspace, plan, stage_kinds())
        machines = {} if cluster is None else machines_of(cluster)
        submission = Submission(
            at=iso_time(time.time()),
            run_id=continued.run_id if continued is not None else new_run_id(),
            recipe=plan.recipe,
            plan_digest=continued.plan_digest if continued is not None else plan_digest(plan),
            person=current_person(),
            priority=priority,
            after=followed,
            cluster=cluster_text(profile),
            pool=pool_of(cluster),
            stages=stage_needs(plan, stage_prices(parsed, machines, prices)),
            estimate_s=estimate_s(plan),
            limits=budget,
        )
        if continued is not None:
            plan = workspace.plan_of(continued.run_id, stage_kinds())
        is_new = submit(workspace, plan, submission)
        if not as_json:
            print_plan(plan)
        text = f"run {submission.run_id} is in the queue; `illume queue` shows its place"
        _report(plan, submission.run_id, is_new=is_new, text=text, as_json=as_json)


@click.command("requeue", epilog=examples("requeue quickstart", "requeue 20260504-101500-a1b2c3 --anew"))
@click.argument("run", shell_complete=complete_run)
@click.option("--anew", is_flag=True, help="Plan its stages anew, as a new run, and reuse what exists.")
@location_options
@cluster_option
@plugin_option
@reason_option
@json_option
def requeue_command(run: str, anew: bool, locations: Locations, profile: str | None, as_json: bool) -> None:
    """Queue RUN, which has ended, again; a server (`illume serve --scheduler`) goes on with it. Starts nothing.

    What it has committed is kept. --cluster is for a run that was started without the queue.
    """
    where = None
    if profile is not None:
        cluster = profile_at(profile)
        where = QueuedFor(cluster=cluster_text(profile), pool=pool_of(cluster))
    with open_workspace(locations) as workspace:
        run_id = find_run(workspace.database, run).run_id
        if anew:
            run_id = queue_anew(workspace, run_id, stage_kinds(), where=where)
        else:
            queue_rest(workspace, run_id, stage_kinds(), where=where)
    if as_json:
        echo_json("requeue", {"run_id": run_id})
        return
    click.echo(f"run {run_id} is in the queue; `illume queue` shows its place")


def refuse_other_options(same: Entry, *, priority: int, limits: Limits, after: Sequence[str]) -> None:
    """Raises: RecipeError: what is in the queue already has not what this command asks for, and would not get it."""
    known = same.submission
    others = [
        name
        for name, is_other in (
            ("--priority", priority not in (0, same.priority)),
            ("--budget", limits.is_set and limits != known.limits),
            ("--after", bool(after) and set(after) != set(known.after)),
        )
        if is_other
    ]
    if others:
        raise RecipeError(
            f"{', '.join(others)}: run {same.run_id} of {known.person} is in the queue already and makes the same, but "
            f"without that; `illume priority {same.run_id} N`, or `illume cancel {same.run_id}` and submit again"
        )


def check_cluster(plan: Plan, profile: Profile | None, budget: Limits, prices: Prices, database: Database) -> None:
    """Find what cannot work before a run waits for it.

    Raises: PrecheckError: a stage fits no machine, the cluster lacks what the profile names, the budget is too small.
    """
    machines = {} if profile is None else machines_of(profile)
    refuse_what_cannot_fit(plan, machines, prices)
    check_budget(plan, machines, prices, budget, database)
    cluster = None if profile is None else connect(profile)
    if cluster is not None and cluster.jobs is not None:
        cluster.jobs.check()
        check_jobs(plan.to_run, cluster.jobs)


def stage_prices(recipe: Recipe, machines: Mapping[str, MachineType], prices: Prices) -> dict[str, float]:
    """Of an accelerator hour of each stage whose machine type has a price: the middle of its range."""
    found = {}
    for stage in recipe.stages:
        first = next((machine for machine in machines.values() if machine.gpus), None)
        machine = machines.get(stage.resources.machine, first)
        price = None if machine is None else money(prices, machine, 1.0)
        if price is not None:
            found[stage.id] = (price.low + price.high) / 2
    return found


def cluster_text(profile: str | None) -> str:
    """What a record keeps of a profile: its text, or an address."""
    if profile is None or "://" in profile:
        return profile or ""
    return read_text(Path(profile), "profile")


def _report(plan: Plan, run_id: str | None, *, is_new: bool, text: str, as_json: bool) -> None:
    if as_json:
        stages = [stage.id for stage in plan.to_run]
        echo_json("submit", {"run_id": run_id, "recipe": plan.recipe, "is_new": is_new, "stages": stages})
    else:
        click.echo(text)
