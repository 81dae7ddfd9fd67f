"""`illume logs` and `illume events`: what the stages of a run said, and what happened to them."""

import json
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import click

from orchestrator.artifact import JSON
from orchestrator.commands.shared.completion import complete_stage_of_run
from orchestrator.commands.shared.live_view import REFRESH_S
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    target_argument,
)
from orchestrator.commands.shared.targets import Target, TargetCommand, find_target, stage_of
from orchestrator.history.events import Event, RunState, event_to_line
from orchestrator.history.run_status import run_status
from orchestrator.history.run_store import RunStore
from orchestrator.liveness.life_in_status import is_abandoned
from orchestrator.logs.reading import LineFilter, LogLine, LogReader, by_file, by_time
from orchestrator.logs.run_logs import RunLogs
from orchestrator.redaction.streams import is_output_closed
from orchestrator.reports.accountability import action_text, action_to_line, actions_of
from orchestrator.times import iso_time, parse_time
from orchestrator.workspace import Workspace

ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)
EVENT_PAGE = 500
LINE_FORMAT = 1
MAX_LIST_CHARACTERS = 400  # of a list in the text of an event: one may name hundreds of shards


def _since(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else parse_time(text, now_s=time.time())
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _pattern(_context: click.Context, _parameter: click.Parameter, text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise click.BadParameter(f"found {text!r}, expected a regular expression: {error}") from error


def _filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option("-f", "--follow", is_flag=True, help="Continue until the run ends."),
        click.option(
            "--stage",
            "stages",
            multiple=True,
            metavar="STAGE",
            help="Only of this stage.",
            shell_complete=complete_stage_of_run,
        ),
        click.option(
            "--since", metavar="TIME", callback=_since, help="Only from then on: 10m, 2h, 2025-01-31T08:15:00Z."
        ),
        click.option(
            "--grep", "pattern", metavar="REGEX", callback=_pattern, help="Only lines in which this is found."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    "logs",
    cls=TargetCommand,
    epilog=examples(
        "logs",
        "logs last:curated -n 50",
        "logs -f quickstart # as they are written, until the run ends",
        "logs --since 10m --grep 'WARNING|ERROR'",
    ),
)
@target_argument
@_filter_options
@click.option("-n", "--lines", default=0, help="Only the last lines of each log; 0: all.")
@location_options
@json_option
def logs_command(
    target: str | None,
    follow: bool,
    stages: tuple[str, ...],
    since: float | None,
    pattern: re.Pattern[str] | None,
    lines: int,
    locations: Locations,
    as_json: bool,
) -> None:
    """Print what the stages of a run, or one of them, and their workers logged and printed, oldest attempt first.

    With --follow or --json the lines of all logs are in one order, by time.
    """
    with open_workspace(locations, needs_store=False) as workspace:
        found = find_target(workspace.database, target)
        wanted = _wanted_stages(found, stages)
        logs = RunLogs(store=workspace.store, state=workspace.root, run_id=found.run.run_id)
        reader = LogReader(logs=logs, filter=LineFilter(stages=wanted, since=since, pattern=pattern))
        is_over = not follow or _is_over(workspace, found.run.run_id)
        first = by_file(reader.read_new(is_over=is_over))
        shown = {file: of_file[-lines:] for file, of_file in first.items()}
        if not (follow or as_json):
            _print_files(shown, found, wanted)
            return
        _print_lines(by_time(line for of_file in shown.values() for line in of_file), as_json=as_json)
        while not is_over and not is_output_closed():
            time.sleep(REFRESH_S)
            is_over = _is_over(workspace, found.run.run_id)  # before reading, so that the last lines are read
            _print_lines(by_time(reader.read_new(is_over=is_over)), as_json=as_json)


@click.command(
    "events",
    cls=TargetCommand,
    epilog=examples(
        "events",
        "events -f quickstart",
        "events --since 1h --grep failed",
        "events last:curated --json # one JSON object per line",
        "events --actor alice # what she ran, stopped, pinned, deleted, took down",
    ),
)
@target_argument
@_filter_options
@click.option("--after", default=0, help="Only events with a higher number.")
@click.option(
    "--actor",
    metavar="NAME",
    help="What somebody did, in all runs and to the store: user, host, USER@HOST or the name of a token; '*' for all.",
)
@location_options
@json_option
def events_command(
    target: str | None,
    follow: bool,
    stages: tuple[str, ...],
    since: float | None,
    pattern: re.Pattern[str] | None,
    after: int,
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
        wanted = _wanted_stages(found, stages)
        pages, last = event_pages(workspace.runs, found.run.run_id), after
        while True:
            is_over = not follow or _is_over(workspace, found.run.run_id)
            while page := pages(last):
                for event in page:
                    text = event_to_line(event) if as_json else event_text(event)
                    is_wanted = not wanted or event.stage_id in wanted
                    if is_wanted and event.time >= (since or 0.0) and (pattern is None or pattern.search(text)):
                        click.echo(text)
                last = page[-1].sequence
            if is_over or is_output_closed():
                return
            time.sleep(REFRESH_S)


def event_pages(runs: RunStore, run_id: str) -> Callable[[int], list[Event]]:
    """A function that returns a page of the run's events after a sequence number."""
    return lambda after: runs.events(run_id, after=after, limit=EVENT_PAGE)


def event_text(event: Event) -> str:
    """One event as a line of text."""
    fields = " ".join(f"{name}={_shown(value)}" for name, value in event.fields.items())
    where = f" {event.stage_id}" if event.stage_id else ""
    return f"{event.sequence:5} {iso_time(event.time)}{where} {event.kind} {fields}".rstrip()


def _shown(value: JSON) -> str:
    text = json.dumps(value, ensure_ascii=False)
    is_long = isinstance(value, list) and len(text) > MAX_LIST_CHARACTERS
    return f"{text[:MAX_LIST_CHARACTERS]}...(--json has all)" if is_long else text


def _wanted_stages(target: Target, stages: tuple[str, ...]) -> tuple[str, ...]:
    """Raises: RecipeError: the run has no such stage."""
    for stage_id in stages:
        stage_of(target.status, stage_id)
    return (*stages, *([target.stage_id] if target.stage_id else []))


def _is_over(workspace: Workspace, run_id: str) -> bool:
    state = run_status(workspace.database, run_id).run.state
    return state in ENDED or is_abandoned(state, workspace.liveness.run(run_id))


def _print_files(shown: dict[str, list[LogLine]], target: Target, stages: tuple[str, ...]) -> None:
    for file, lines in shown.items():
        click.secho(f"==> {file}", bold=True)
        click.echo("\n".join(line.text for line in lines))
    if not shown:
        of_stages = f" of {', '.join(stages)}" if stages else ""
        click.echo(f"run {target.run.run_id}: no lines in its logs{of_stages}", err=True)


def _print_lines(lines: Iterable[LogLine], *, as_json: bool) -> None:
    for line in lines:
        if as_json:
            at = None if line.time is None else iso_time(line.time)
            click.echo(json.dumps({"format": LINE_FORMAT, "log": line.file, "time": at, "text": line.text}))
        else:
            click.echo(f"{line.file.removesuffix('.log')}  {line.text}")
