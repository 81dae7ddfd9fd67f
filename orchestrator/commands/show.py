"""`illume show` and `illume path`: what came out of a run or a stage, where it is, and what to type next."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import click

from orchestrator.artifact import JSON
from orchestrator.commands.shared.formatting import bytes_text, duration_text, short, time_text
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    plugin_option,
    stage_kinds,
    target_argument,
)
from orchestrator.commands.shared.outcome import next_commands, outcome_lines, shown_folder, state_text, summaries_of
from orchestrator.commands.shared.targets import TargetCommand, check_not_taken_down, find_target
from orchestrator.errors import RecipeError
from orchestrator.logs.run_logs import RunLogs
from orchestrator.reports.run_summary import StageSummary, number_text

MAX_FILES = 20
MAX_METRICS = 40  # in text; JSON has all


@click.command(
    "show",
    cls=TargetCommand,
    epilog=examples("show # the newest run", "show quickstart", "show last:curated", "show last:curated --json"),
)
@target_argument
@location_options
@plugin_option
@json_option
def show_command(target: str | None, locations: Locations, as_json: bool) -> None:
    """Show what came out of a run or of a stage: metrics, files, folder, and what to type next."""
    with open_workspace(locations) as workspace:
        found = find_target(workspace.database, target)
        summaries = summaries_of(workspace, found, stage_kinds())
        steps = next_commands(workspace, found, summaries)
    if as_json:
        heading = {"run_id": found.run.run_id, "recipe": found.run.recipe, "state": found.run.state, "next": steps}
        echo_json("show", {**heading, "stages": [_summary_json(summary) for summary in summaries]})
        return
    run = found.run
    click.echo(f"run {run.run_id} of {run.recipe}: {run.state}, started {time_text(run.created_at)}")
    lines = outcome_lines(summaries) if found.stage_id is None else stage_lines(summaries[0])
    click.echo("\n".join(lines))
    click.echo("\n".join(["next:", *(f"  {step}" for step in steps)]))


@click.command(
    "path",
    cls=TargetCommand,
    epilog=examples("path last:curated", "path quickstart:evaluated", "path last # the folder of its logs"),
)
@target_argument
@location_options
@json_option
def path_command(target: str | None, locations: Locations, as_json: bool) -> None:
    """Print the folder of a stage's files, or of a run's logs, and nothing else: cd "$(illume path last:curated)".

    In a store elsewhere it is the address of the files.
    """
    with open_workspace(locations) as workspace:
        found = find_target(workspace.database, target)
        if found.stage_id is None:
            logs = RunLogs(store=workspace.store, state=workspace.root, run_id=found.run.run_id)
            _print_path(str(logs.folder), as_json=as_json)
            return
        (summary,) = summaries_of(workspace, found, {})
        if not summary.folder:
            check_not_taken_down(workspace.store, found.run.run_id, summary.status)
    if not summary.folder:
        raise RecipeError(
            f"run {found.run.run_id}: stage {found.stage_id!r} has no files; found it {state_text(summary.status)}, "
            "expected it to be done; continue with `illume resume`"
        )
    _print_path(summary.folder, as_json=as_json)


def _print_path(path: str, *, as_json: bool) -> None:
    if as_json:
        echo_json("path", {"path": path})
    else:
        click.echo(path)


def stage_lines(summary: StageSummary) -> list[str]:
    """Everything about one stage: state, identity, folder, metrics with their meaning, files."""
    status = summary.status
    took = f" in {duration_text(summary.seconds)}" if summary.seconds is not None else ""
    lines = [
        f"{status.stage_id}: {state_text(status)}{took}, {status.stage_kind}, identity {short(status.fingerprint)}"
    ]
    lines += [f"  why: {reason}" for reason in status.reasons]
    if status.message:
        lines.append(f"  {status.message.strip().splitlines()[0]}")
    if not summary.folder:
        return lines
    if summary.made_by_run and summary.headline:
        lines.append(f"  {summary.headline}")
        lines += [f"  warning: {warning}" for warning in summary.warnings]
    size = f"{len(summary.files):,} files, {bytes_text(summary.bytes)}"
    lines.append(f"  {summary.artifact_kind}, {size}: {shown_folder(summary.folder)}")
    lines += ["metrics", *_metric_lines(summary.metrics, summary.meanings), "files"]
    largest = sorted(summary.files, key=lambda entry: -entry.bytes)[:MAX_FILES]
    lines += [f"  {bytes_text(entry.bytes):>10}  {entry.path}" for entry in largest]
    left = len(summary.files) - len(largest)
    return lines + ([f"  ... {left:,} smaller ones; --json has all"] if left else [])


def _metric_lines(metrics: Mapping[str, float], meanings: Mapping[str, str]) -> list[str]:
    """The declared metrics first, in their order; families of names have no meaning beside each."""
    order = {name: number for number, name in enumerate(meanings)}
    names = sorted(metrics, key=lambda name: (order.get(name, len(order)), name))
    width = max(map(len, names[:MAX_METRICS]), default=0)
    lines = [
        f"  {name:{width}}  {number_text(metrics[name]):>10}" + (f"  {meanings[name]}" if name in meanings else "")
        for name in names[:MAX_METRICS]
    ]
    left = len(names) - len(lines)
    return lines + ([f"  ... {left:,} more; --json has all"] if left else [])


def _summary_json(summary: StageSummary) -> dict[str, JSON]:
    status = summary.status
    files: Sequence[dict[str, JSON]] = [asdict(entry) for entry in summary.files]
    return {
        "stage_id": status.stage_id,
        "stage_kind": status.stage_kind,
        "state": status.state,
        "fingerprint": status.fingerprint,
        "artifact_kind": summary.artifact_kind,
        "headline": summary.headline,
        "warnings": list(summary.warnings),
        "metrics": dict(summary.metrics),
        "folder": summary.folder,
        "bytes": summary.bytes,
        "files": list(files),
        "seconds": summary.seconds,
        "made_by_run": summary.made_by_run,
    }
