"""`illume relocate`: lets the database and the tracker follow what has moved, and fills a tracker that is new."""

from dataclasses import asdict
from pathlib import Path

import click

from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.numbers import AT_LEAST_ZERO
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    reason_option,
)
from orchestrator.history.changes import record_change
from orchestrator.history.run_status import list_runs
from orchestrator.sinks.outbox import Outbox
from orchestrator.sinks.relocation import Move, find_moves, follow_moves, local_path, move_addresses
from orchestrator.workspace import NO_TRACKING, Workspace

MAX_RUNS = 100_000


@click.command(
    "relocate",
    epilog=examples(
        "relocate # after the folder .illume was moved",
        "relocate --store /new/place/store # after the store was",
        "relocate --tracking http://mlflow:5000 # fill a new tracker from the store",
    ),
)
@click.option(
    "--timeout-s", type=AT_LEAST_ZERO, default=600.0, show_default=True, help="How long to wait for the tracker."
)
@location_options
@reason_option
@json_option
def relocate_command(timeout_s: float, locations: Locations, as_json: bool) -> int:
    """Follow a store, a workspace or a tracker that has moved, and deliver to a tracker what it does not have yet.

    Files are moved by you, and this command is run at their new place. A lost database is made again from the store
    first, by `illume index rebuild`; a new tracker is then filled from the store alone. Can be repeated.
    """
    with open_workspace(locations, changes=True) as workspace:
        sinks = workspace.sinks()
        moves = find_moves(workspace.database, [sink.name for sink in sinks])
        follow_moves(workspace.database, moves)
        changed = move_addresses(workspace.tracking_url, _folders(moves))
        record_change(workspace.store, "relocate", [f"{move.kind}: {move.old} -> {move.new}" for move in moves])
        runs = list_runs(workspace.database, limit=MAX_RUNS) if workspace.tracking_url != NO_TRACKING else []
        waiting = _fill(workspace, [run.run_id for run in reversed(runs)], timeout_s)
    if as_json:
        found = {"moves": [asdict(move) for move in moves], "addresses": changed, "runs": len(runs), "waiting": waiting}
        echo_json("relocate", found)
    else:
        for move in moves:
            click.echo(f"{move.kind}: {move.old} is now {move.new}")
        click.echo(f"{changed} addresses of the tracker changed; it has the {len(runs)} runs of the store")
    for sink, number in waiting.items():
        click.echo(f"{sink}: {number} events are not delivered yet; repeat the command", err=True)
    return 1 if waiting else 0


def _fill(workspace: Workspace, run_ids: list[str], timeout_s: float) -> dict[str, int]:
    """Deliver to the tracker what it does not have. Returns the number of undelivered events by sink."""
    trackers = [sink for sink in workspace.sinks() if sink.name.startswith("mlflow ")]
    with Outbox(workspace.database, trackers) as outbox:
        for run_id in run_ids:
            outbox.follow(run_id)
        return outbox.drain(timeout_s) if trackers else {}


def _folders(moves: list[Move]) -> list[tuple[Path, Path]]:
    """(old, new) folders that addresses of the tracker may lie in: the store's, and the tracker's artifacts."""
    found = []
    for move in moves:
        old, new = local_path(move.old), local_path(move.new)
        if old is None or new is None:
            continue
        if move.kind == "store":
            found.append((old, new))
        if move.kind == "mlflow":
            found.append((old.with_suffix(".artifacts"), new.with_suffix(".artifacts")))
    return found
