"""`illume status`, `illume events` and `illume logs`: shows runs, their events and their logs."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import click
from rich.table import Table
from rich.text import Text

from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.commands.shared.formatting import short, time_text
from orchestrator.commands.shared.live_view import (
    REFRESH_S,
    STATE_STYLES,
    console,
    default_style,
    show_live,
    stage_line,
    status_table,
)
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    target_argument,
)
from orchestrator.commands.shared.targets import TargetCommand, find_target
from orchestrator.errors import StoreError
from orchestrator.history.events import Event, RunState, event_to_line, iso_time
from orchestrator.history.run_status import RunStatus, list_runs, run_status
from orchestrator.history.run_store import RunStore
from orchestrator.liveness.life_in_status import is_abandoned, with_life
from orchestrator.reports.accountability import action_text, action_to_line, actions_of
from orchestrator.reports.taken_down import with_takedowns
from orchestrator.store.layout import RUNS
from orchestrator.workspace import Workspace

ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)
EVENT_PAGE = 500


@click.command(
    "status",
    cls=TargetCommand,
    epilog=examples("status", "status quickstart # its newest run", "status -f last", "status last:curated --json"),
)
@target_argument
@click.option("-f", "--follow", is_flag=True, help="Keep showing the run until it ends.")
@click.option("-n", "--limit", default=20, show_default=True, help="Runs to list.")
@location_options
@json_option
def status_command(
    target: str | None,
    follow: bool,
    limit: int,
    locations: Locations,
    as_json: bool,
) -> None:
    """List the runs, or show the stages of one.

    RUN is a run's id, a prefix of one, a recipe's name for its newest run, or `last`.
    """
    with open_workspace(locations, needs_store=False) as workspace:
        if target is None and not follow:
            _print_runs(workspace, limit, as_json=as_json)
            return
        found_target = find_target(workspace.database, target)
        if follow:
            run_id = found_target.run.run_id
            style, pages = default_style(as_json=as_json), event_pages(workspace.runs, run_id)
            with show_live(
                workspace.database, run_id, style, pages, refine=lambda status: _with_life(workspace, status)
            ):
                while (found := _with_life(workspace, run_status(workspace.database, run_id)).run).state not in ENDED:
                    if is_abandoned(found.state, workspace.liveness.run(run_id)):
                        break
                    time.sleep(REFRESH_S)
            if found.message and not as_json:
                click.echo(found.message)
            return
        status = _with_life(workspace, replace(found_target.status, stages=found_target.stages))
        _print_status(status, as_json=as_json)


@click.command(
    "events",
    cls=TargetCommand,
    epilog=examples(
        "events",
        "events -f quickstart",
        "events last:curated --json # one JSON object per line",
        "events --actor alice # what she ran, stopped, pinned, deleted, took down",
    ),
)
@target_argument
@click.option("--after", default=0, help="Only events with a higher number.")
@click.option("-f", "--follow", is_flag=True, help="Continue until the run ends.")
@click.option(
    "--actor",
    metavar="NAME",
    help="What somebody did, in all runs and to the store: user, host, USER@HOST or the name of a token; '*' for all.",
)
@location_options
@json_option
def events_command(
    target: str | None,
    after: int,
    follow: bool,
    actor: str | None,
    locations: Locations,
    as_json: bool,
) -> None:
    """Print what happened in a run, or in one stage of it, one event per line."""
    with open_workspace(locations, needs_store=False) as workspace:
        if actor is not None:
            run_id = find_target(workspace.database, target).run.run_id if target else None
            for action in actions_of(workspace.database, workspace.store, actor, run_id=run_id):
                click.echo(action_to_line(action) if as_json else action_text(action))
            return
        found = find_target(workspace.database, target)
        run_id = found.run.run_id
        pages, last = event_pages(workspace.runs, run_id), after
        while True:
            state = run_status(workspace.database, run_id).run.state
            is_over = not follow or state in ENDED or is_abandoned(state, workspace.liveness.run(run_id))
            while page := pages(last):
                for event in page:
                    if found.stage_id not in (None, event.stage_id):
                        continue
                    click.echo(event_to_line(event) if as_json else event_text(event))
                last = page[-1].sequence
            if is_over:
                return
            time.sleep(REFRESH_S)


@click.command(
    "logs",
    cls=TargetCommand,
    epilog=examples("logs", "logs last:curated -n 50", "logs quickstart:tokenizer # of its newest run"),
)
@target_argument
@click.option("-n", "--lines", default=0, help="Only the last lines of each log; 0: all.")
@location_options
def logs_command(target: str | None, lines: int, locations: Locations) -> None:
    """Print what the stages of a run, or one of them, logged, oldest attempt first."""
    with open_workspace(locations, needs_store=False) as workspace:
        found = find_target(workspace.database, target)
        run_id, stage = found.run.run_id, found.stage_id
        logs = workspace.logs(run_id, stage)
        for name, text in logs:
            shown = text.splitlines()[-lines:]
            click.secho(f"==> {name}", bold=True)
            click.echo("\n".join(shown))
        if not logs:
            click.echo(f"run {run_id}: no logs{f' of stage {stage}' if stage else ''}", err=True)


def _with_life(workspace: Workspace, status: RunStatus) -> RunStatus:
    status = with_life(status, workspace.liveness.run(status.run.run_id))
    try:
        return with_takedowns(status, read_takedowns(workspace.store))
    except StoreError:  # it is away, which was said
        return status


def event_pages(runs: RunStore, run_id: str) -> Callable[[int], list[Event]]:
    """A function that returns a page of the run's events after a sequence number."""
    return lambda after: runs.events(run_id, after=after, limit=EVENT_PAGE)


def event_text(event: Event) -> str:
    """One event as a line of text."""
    fields = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in event.fields.items())
    where = f" {event.stage_id}" if event.stage_id else ""
    return f"{event.sequence:5} {iso_time(event.time)}{where} {event.kind} {fields}".rstrip()


def _print_runs(workspace: Workspace, limit: int, *, as_json: bool) -> None:
    found = list_runs(workspace.database, limit=limit)
    if as_json:
        click.echo(json.dumps([asdict(run) for run in found], indent=2))
        return
    if not found:
        stored = len(workspace.store.folders(RUNS))
        rebuild = (
            f", but {stored} are in {workspace.store.url}: `illume index rebuild` lists them again" if stored else ""
        )
        click.echo(f"no runs yet{rebuild or '; start one with `illume run RECIPE`'}")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("run", "recipe", "state", "started", "plan", "message"):
        table.add_column(title, no_wrap=title != "message", overflow="fold")
    for run in found:
        state = Text(run.state.lower(), style=STATE_STYLES.get(run.state, ""))
        if run.state in (RunState.RUNNING, RunState.STOPPING):
            run = _with_life(workspace, RunStatus(run=run, stages=())).run
        message = run.message.strip().splitlines()[0] if run.message.strip() else ""
        table.add_row(run.run_id, run.recipe, state, time_text(run.created_at), short(run.plan_digest), Text(message))
    console().print(table)


def _print_status(status: RunStatus, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(status), indent=2))
        return
    terminal = console()
    if terminal.is_terminal:
        terminal.print(status_table(status))
        return
    message = f": {status.run.message}" if status.run.message else ""
    click.echo(f"run {status.run.run_id} of {status.run.recipe}: {status.run.state.lower()}{message}")
    for stage in status.stages:
        click.echo(f"  {stage_line(stage)}")
