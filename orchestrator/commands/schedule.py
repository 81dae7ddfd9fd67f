"""`illume schedule`: recipes that are submitted at the times of a cron line, or when something new is there."""

import time
from dataclasses import replace
from pathlib import Path

import click

from clusters.planner.prices import BUILT_IN
from clusters.profiles import machines_of, profile_at
from clusters.shared import pool_of
from orchestrator.actor import current_actor
from orchestrator.commands.shared.budget_options import PRIORITY, budget_option, check_budget, current_prices
from orchestrator.commands.shared.formatting import time_text
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    cluster_option,
    complete_recipe,
    examples,
    json_option,
    location_options,
    open_workspace,
    plugin_option,
    reason_option,
    recipe_file,
    stage_kinds,
)
from orchestrator.commands.submit import cluster_text, stage_prices
from orchestrator.documents.suggestions import expectation
from orchestrator.errors import RecipeError
from orchestrator.history.actors import actor_record
from orchestrator.planning.plan import make_plan
from orchestrator.planning.store_view import plan_view
from orchestrator.queue.names import check_name
from orchestrator.queue.records import Firing, Limits, Overlap, Schedule, current_person
from orchestrator.queue.rows import add_record, newest, newest_of
from orchestrator.recipe.loading import load_recipe
from orchestrator.recipe.yaml_subset import read_text
from orchestrator.scheduler.schedules import files_state, new_name, next_due
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace


@click.group("schedule")
def schedule_command() -> None:
    """Recipes that a server submits by itself: at the times of a cron line, for new files, or for a pinned artifact."""


@schedule_command.command(
    "add",
    epilog=examples(
        "schedule add my.yaml --cron '30 2 * * 1-5' --zone Europe/Berlin --cluster profile.yaml",
        "schedule add my.yaml --files s3://bucket/inbox --overlap queue",
        "schedule add evaluate.yaml --pins train_mllm # when a model of this kind is pinned",
    ),
)
@click.argument("recipe", shell_complete=complete_recipe)
@click.option("--name", default="", help="Of the schedule. Default: the recipe's, with four letters.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="stages.NAME.config.KEY=VALUE")
@click.option("--cron", default="", metavar="LINE", help="Minute, hour, day of the month, month, day of the week.")
@click.option("--zone", default="UTC", show_default=True, help="Time zone of the cron line.")
@click.option("--files", default="", metavar="FOLDER", help="When files there are new or changed, and rest.")
@click.option("--pins", default="", metavar="KIND", help="When an artifact of this kind of stage is pinned.")
@click.option(
    "--overlap",
    type=click.Choice(["skip", "queue", "cancel"]),
    default="skip",
    show_default=True,
    help="While its last run has not ended: pass this time over, queue it too, or cancel the last one.",
)
@click.option("--priority", type=PRIORITY, default=0, show_default=True, help="Of its runs.")
@budget_option
@click.option("--prices", "prices_file", type=Path, default=BUILT_IN, help="A price file of yours.", show_default=False)
@cluster_option
@location_options
@plugin_option
@reason_option
@json_option
def add_command(
    recipe: str,
    name: str,
    overrides: tuple[str, ...],
    cron: str,
    zone: str,
    files: str,
    pins: str,
    overlap: Overlap,
    priority: int,
    budget: Limits,
    prices_file: Path,
    profile: str | None,
    locations: Locations,
    as_json: bool,
) -> None:
    """Submit RECIPE again and again. Its text is kept: to change it, remove the schedule and add another.

    A budget in money is counted at the prices of today, as long as the schedule is there.
    """
    if sum(map(bool, (cron, files, pins))) != 1:
        raise RecipeError("schedule: expected one of --cron, --files and --pins")
    due = next_due(cron, zone, time.time()) if cron else None
    file = recipe_file(recipe)
    parsed = load_recipe(file, stage_kinds(), overrides)
    if files:
        files = files if "://" in files else str(Path(files).absolute())
        files_state(files)
    if pins and pins not in stage_kinds():
        raise RecipeError(f"--pins: found {pins!r}; {expectation(pins, stage_kinds())}")
    name = check_name(name, "--name") if name else new_name(parsed.name)
    cluster = None if profile is None else profile_at(profile)
    machines = {} if cluster is None else machines_of(cluster)
    prices = current_prices(prices_file, budget)
    with open_workspace(locations, create=True) as workspace:
        known = newest_of(workspace.database, Schedule, name)
        if known is not None and not known[1].is_removed:
            raise RecipeError(f"schedule {name!r}: exists already; give another --name, or remove it first")
        if budget.is_set:
            plan = make_plan(parsed, plan_view(workspace.artifacts, workspace.database))
            check_budget(plan, machines, prices, budget, workspace.database)
        schedule = Schedule(
            at=iso_time(time.time()),
            recipe=read_text(file),
            file=str(file),
            overrides=overrides,
            cron=cron,
            zone=zone,
            files=files,
            pins=pins,
            overlap=overlap,
            priority=priority,
            person=current_person(),
            cluster=cluster_text(profile),
            pool=pool_of(cluster),
            limits=budget,
            prices=stage_prices(parsed, machines, prices),
        )
        add_record(workspace.store, workspace.database, "schedules", name, schedule)
    if as_json:
        echo_json("schedule add", {"name": name, "next": None if due is None else iso_time(due)})
        return
    first = f"first at {time_text(due)}" if due is not None else "once something new is there"
    click.echo(f"schedule {name}: {first}; a server has to be there: `illume serve --scheduler`")


@schedule_command.command("list", epilog=examples("schedule list", "schedule list --json"))
@location_options
@json_option
def list_command(locations: Locations, as_json: bool) -> None:
    """List the schedules, with their next and last times."""
    with open_workspace(locations, needs_store=False) as workspace:
        found = {name: each for name, each in newest(workspace.database, Schedule).items() if not each.is_removed}
        rows = [_row(workspace, name, schedule) for name, schedule in found.items()]
    if as_json:
        echo_json("schedule list", {"schedules": rows})
        return
    if not rows:
        click.echo("no schedules; `illume schedule add RECIPE --cron LINE` adds one")
    for row in rows:
        when = "paused" if row["is_paused"] else f"next {row['next']}" if row["next"] else "waits for something new"
        last = f"; last {row['last']}: {row['last_run'] or row['note'] or 'seen'}" if row["last"] else ""
        click.echo(f"{row['name']}: {row['trigger']}; {when}{last}")


@schedule_command.command("pause", epilog=examples("schedule pause nightly"))
@click.argument("name")
@location_options
@reason_option
def pause_command(name: str, locations: Locations) -> None:
    """Let a schedule fire no more until `illume schedule resume`. Runs that it has queued stay."""
    _change(name, locations, is_paused=True)


@schedule_command.command("resume", epilog=examples("schedule resume nightly"))
@click.argument("name")
@location_options
@reason_option
def resume_command(name: str, locations: Locations) -> None:
    """Let a paused schedule fire again, from now on."""
    _change(name, locations, is_paused=False)


@schedule_command.command("remove", epilog=examples("schedule remove nightly"))
@click.argument("name")
@location_options
@reason_option
def remove_command(name: str, locations: Locations) -> None:
    """End a schedule. Runs that it has queued stay: `illume cancel RUN`."""
    _change(name, locations, is_paused=True, is_removed=True)


def _change(name: str, locations: Locations, *, is_paused: bool, is_removed: bool = False) -> None:
    with open_workspace(locations) as workspace:
        known = {key: each for key, each in newest(workspace.database, Schedule).items() if not each.is_removed}
        if name not in known:
            raise RecipeError(f"found no schedule {name!r}; {expectation(name, known.keys())}")
        changed = replace(
            known[name],
            at=iso_time(time.time()),
            by=actor_record(current_actor()),
            is_paused=is_paused,
            is_removed=is_removed,
        )
        add_record(workspace.store, workspace.database, "schedules", name, changed)
    click.echo(f"schedule {name}: {'removed' if is_removed else 'paused' if is_paused else 'fires again'}")


def _row(workspace: Workspace, name: str, schedule: Schedule) -> dict[str, str | bool | None]:
    last = newest_of(workspace.database, Firing, name)
    firing = None if last is None else last[1]
    due = None
    if schedule.cron and not schedule.is_paused:
        due = iso_time(next_due(schedule.cron, schedule.zone, time.time()))
    trigger = f"{schedule.cron} {schedule.zone}" if schedule.cron else schedule.files or f"pins of {schedule.pins}"
    return {
        "name": name,
        "recipe": schedule.file,
        "trigger": trigger,
        "overlap": schedule.overlap,
        "person": schedule.person,
        "is_paused": schedule.is_paused,
        "next": due,
        "last": None if firing is None else firing.due,
        "last_run": None if firing is None else firing.run_id,
        "note": None if firing is None else firing.note,
    }
