"""`illume queue`, `priority` and `approve`: what waits and why, and the words of people that change it."""

import socket
import time
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from orchestrator.commands.shared.budget_options import PRIORITY
from orchestrator.commands.shared.formatting import duration_text
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.live_view import STATE_STYLES, console
from orchestrator.commands.shared.narrow import print_table
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    reason_option,
    target_argument,
)
from orchestrator.commands.shared.targets import TargetCommand, find_run, find_target
from orchestrator.errors import RecipeError
from orchestrator.queue.entries import open_entries
from orchestrator.queue.looking import Place, places
from orchestrator.queue.records import PriorityChange
from orchestrator.queue.rows import add_record, copy_missing
from orchestrator.scheduler.approving import approve
from orchestrator.scheduler.lasting import left_s
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace


@click.command("queue", epilog=examples("queue", "queue --json"))
@location_options
@json_option
def queue_command(locations: Locations, as_json: bool) -> None:
    """Show the runs in the queue: what is at work, who goes next, why each waits, and when it is expected to start."""
    with open_workspace(locations, needs_store=False) as workspace:
        found = queue_places(workspace)
    if as_json:
        echo_json("queue", {"entries": [place_to_json(place) for place in found]})
        return
    if not found:
        click.echo("the queue is empty; `illume submit RECIPE` adds to it")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("", "run", "recipe", "who", "priority", "state", "waits for", "expected in"):
        table.add_column(title, no_wrap=title != "waits for", overflow="fold")
    now = time.time()
    for place in found:
        entry = place.entry
        starts = "" if place.expected_start is None else duration_text(max(0.0, place.expected_start - now))
        table.add_row(
            "" if place.position is None else str(place.position),
            entry.run_id,
            entry.submission.recipe,
            entry.submission.person,
            str(entry.priority),
            Text(entry.state, style=STATE_STYLES.get(entry.state, "")),
            place.waits_for,
            starts if place.position is not None else "",
        )
    print_table(table, console())


@click.command("priority", epilog=examples("priority quickstart 5", "priority 20260504-101500-a1b2c3 -- -1"))
@click.argument("run")
@click.argument("priority", type=PRIORITY)
@location_options
@reason_option
def priority_command(run: str, priority: int, locations: Locations) -> None:
    """Change the priority of RUN in the queue. A higher one goes first, and may ask lower ones to make room."""
    with open_workspace(locations) as workspace:
        found = find_run(workspace.database, run)
        if found.run_id not in {entry.run_id for entry in open_entries(workspace.database)}:
            raise RecipeError(f"run {found.run_id}: is {found.state} and not in the queue; `illume queue` lists it")
        change = PriorityChange(at=iso_time(time.time()), priority=priority)
        add_record(workspace.store, workspace.database, "priorities", found.run_id, change)
        click.echo(f"run {found.run_id}: priority {priority}")


@click.command("approve", cls=TargetCommand, epilog=examples('approve quickstart:train --note "curves look right"'))
@target_argument
@click.option("--note", required=True, help="What was looked at; recorded with your name. No personal data.")
@location_options
def approve_command(target: str | None, note: str, locations: Locations) -> None:
    """Let the stage RUN:STAGE start, which has `approval: true` in its recipe and waits for the word of a person."""
    with open_workspace(locations) as workspace:
        found = find_target(workspace.database, target)
        if found.stage_id is None:
            raise RecipeError("approve: expected RUN:STAGE, the stage that waits; `illume queue` names it")
        approval = approve(workspace, found.run.run_id, found.stage_id, note)
        click.echo(f"{found.run.run_id}:{found.stage_id}: approved by {approval.by.name}")


def queue_places(workspace: Workspace) -> list[Place]:
    """Everything in the queue, in its place."""
    if workspace.has_index:
        copy_missing(workspace.store, workspace.database)
    entries = open_entries(workspace.database)
    machine = f"machine {socket.gethostname()}"
    lasts_s = {entry.run_id: left_s(workspace.database, entry.submission) for entry in entries}
    return places(workspace.database, entries, machine=machine, lasts_s=lasts_s)


def place_to_json(place: Place) -> dict[str, Any]:
    entry = place.entry
    return {
        "run_id": entry.run_id,
        "recipe": entry.submission.recipe,
        "person": entry.submission.person,
        "priority": entry.priority,
        "state": entry.state,
        "position": place.position,
        "waits_for": place.waits_for,
        "submitted_at": entry.submission.at,
        "expected_start": None if place.expected_start is None else iso_time(place.expected_start),
        "pool": place.pool,
        "after": list(entry.submission.after),
        "schedule": entry.submission.schedule,
    }
