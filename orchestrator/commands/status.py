"""`illume status`: lists the runs, or shows the stages of one."""

import time
from dataclasses import asdict, replace

import click
from rich.table import Table
from rich.text import Text

from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.commands.logs import ENDED, event_pages
from orchestrator.commands.shared.cost_table import print_cost
from orchestrator.commands.shared.formatting import short, time_text
from orchestrator.commands.shared.json_output import echo_json, run_to_json
from orchestrator.commands.shared.live_view import (
    REFRESH_S,
    STATE_STYLES,
    console,
    default_style,
    show_live,
    stage_line,
    status_table,
)
from orchestrator.commands.shared.narrow import print_table
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
from orchestrator.history.events import RunState
from orchestrator.history.run_status import RunStatus, list_runs, run_status
from orchestrator.liveness.life_in_status import is_abandoned, with_life
from orchestrator.redaction.streams import is_output_closed
from orchestrator.reports.taken_down import with_takedowns
from orchestrator.store.layout import RUNS
from orchestrator.workspace import Workspace


@click.command(
    "status",
    cls=TargetCommand,
    epilog=examples("status", "status quickstart # its newest run", "status -f last", "status last:curated --json"),
)
@target_argument
@click.option("-f", "--follow", is_flag=True, help="Keep showing the run until it ends.")
@click.option("--cost", "with_cost", is_flag=True, help="Show what it cost so far, retries and lost work apart.")
@click.option("-n", "--limit", default=20, show_default=True, help="Runs to list.")
@location_options
@json_option
def status_command(
    target: str | None,
    follow: bool,
    with_cost: bool,
    limit: int,
    locations: Locations,
    as_json: bool,
) -> None:
    """List the runs, or show the stages of one.

    RUN is a run's id, a prefix of one, a recipe's name for its newest run, or `last`.
    """
    with open_workspace(locations, needs_store=False) as workspace:
        if target is None and not follow and not with_cost:
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
                    if is_output_closed() or is_abandoned(found.state, workspace.liveness.run(run_id)):
                        break
                    time.sleep(REFRESH_S)
            if found.message and not as_json:
                click.echo(found.message)
            return
        status = _with_life(workspace, replace(found_target.status, stages=found_target.stages))
        if with_cost:
            print_cost(workspace.database, status, as_json=as_json)
            return
        _print_status(status, as_json=as_json)


def _with_life(workspace: Workspace, status: RunStatus) -> RunStatus:
    status = with_life(status, workspace.liveness.run(status.run.run_id))
    try:
        return with_takedowns(status, read_takedowns(workspace.store))
    except StoreError:  # it is away, which was said
        return status


def _print_runs(workspace: Workspace, limit: int, *, as_json: bool) -> None:
    found = list_runs(workspace.database, limit=limit)
    if as_json:
        echo_json("status", {"runs": [run_to_json(run) for run in found]})
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
        state = Text(run.state, style=STATE_STYLES.get(run.state, ""))
        if run.state in (RunState.RUNNING, RunState.STOPPING):
            run = _with_life(workspace, RunStatus(run=run, stages=())).run
        message = run.message.strip().splitlines()[0] if run.message.strip() else ""
        table.add_row(run.run_id, run.recipe, state, time_text(run.created_at), short(run.plan_digest), Text(message))
    print_table(table, console())


def _print_status(status: RunStatus, *, as_json: bool) -> None:
    if as_json:
        echo_json("status RUN", {**asdict(status), "run": run_to_json(status.run)})
        return
    terminal = console()
    if terminal.is_terminal:
        print_table(status_table(status), terminal)
        return
    message = f": {status.run.message}" if status.run.message else ""
    click.echo(f"run {status.run.run_id} of {status.run.recipe}: {status.run.state}{message}")
    for stage in status.stages:
        click.echo(f"  {stage_line(stage)}")
