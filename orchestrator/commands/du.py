"""`illume du`: the space that stages, runs and checkpoints take in the store."""

from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from orchestrator.commands.shared.formatting import bytes_text
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.live_view import console
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
from orchestrator.reports.space import Space, measure_space, totals_by

MAX_ROWS = 20  # of each table; JSON has all


@click.command(
    "du",
    cls=TargetCommand,
    epilog=examples("du # the whole store", "du last", "du quickstart:tokenizer", "du --json"),
)
@target_argument
@location_options
@json_option
def du_command(target: str | None, locations: Locations, as_json: bool) -> None:
    """Show the space in the store by stage, run and checkpoint; of one run or stage if it is named.

    An artifact counts for the run that made it. Files that shards and artifacts share by links are counted once.
    """
    with open_workspace(locations) as workspace:
        spaces = measure_space(workspace.store, workspace.database)
        if target is not None:
            found = find_target(workspace.database, target)
            keys = {(stage.stage_kind, stage.fingerprint) for stage in found.stages}
            spaces = [space for space in spaces if (space.stage_kind, space.fingerprint) in keys]
        where = workspace.store.url
    total, files = sum(space.bytes for space in spaces), sum(space.files for space in spaces)
    if as_json:
        places = [asdict(space) for space in spaces]
        echo_json("du", {"store": where, "bytes": total, "files": files, "places": places})
        return
    if not spaces:
        click.echo("nothing is stored yet")
        return
    _print_places(spaces)
    click.echo(f"{bytes_text(total)} in {files:,} files: {where}")


def _print_places(spaces: Sequence[Space]) -> None:
    """Tables by stage, run and checkpoint, then what belongs to no stage; the largest first."""
    kept = [space for space in spaces if space.what in ("artifact", "checkpoint")]
    _print_totals("stage", kept, ("recipe", "stage_id", "stage_kind"))
    _print_totals("run", kept, ("run_id", "recipe"))
    _print_totals("checkpoint", [space for space in kept if space.what == "checkpoint"], ("stage_id", "step", "run_id"))
    _print_totals("shards of", [space for space in spaces if space.what == "shard"], ("stage_kind",))
    _print_totals("records", [space for space in spaces if space.what == "record"], ("what",))


def _print_totals(title: str, spaces: Sequence[Space], names: tuple[str, ...]) -> None:
    rows = list(totals_by(spaces, *names))
    if not rows:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(title, no_wrap=True)
    for _ in names[1:]:
        table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for values, size in rows[:MAX_ROWS]:
        table.add_row(*(Text(value or "unknown") for value in values), Text(bytes_text(size)))
    print_table(table, console())
    if len(rows) > MAX_ROWS:
        click.echo(f"and {len(rows) - MAX_ROWS} more; --json has all")
