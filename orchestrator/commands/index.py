"""`illume index rebuild`: rebuilds the database from the store."""

from dataclasses import asdict

import click

from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
)
from orchestrator.history.database.known_store import remember_store
from orchestrator.history.rebuild import rebuild_index
from orchestrator.queue.rows import rebuild_queue
from orchestrator.store.store_identity import ExpectedStore, read_identity


@click.group("index")
def index_command() -> None:
    """The index database, which can always be rebuilt from the store."""


@index_command.command("rebuild", epilog=examples("index rebuild", "index rebuild --store s3://bucket/prefix"))
@location_options
@json_option
def rebuild_command(locations: Locations, as_json: bool) -> None:
    """Rebuild every row of the database from the store. Nothing in the store is changed.

    Runs that are at work are left as they are.
    """
    with open_workspace(locations, create=True) as workspace:
        report = rebuild_index(workspace.database, workspace.artifacts)
        queued = rebuild_queue(workspace.store, workspace.database)
        if identity := read_identity(workspace.store):
            remember_store(workspace.database, ExpectedStore(store_id=identity.store_id))
    if as_json:
        echo_json("index rebuild", {**asdict(report), "queue_records": queued})
        return
    click.echo(
        f"{report.runs} runs, {report.events} events, {report.artifacts} artifacts, {queued} records of the queue"
    )
    for run_id in report.at_work:
        click.echo(f"run {run_id} is at work; its rows are left as they are")
    for problem in report.problems:
        click.echo(f"warning: {problem}", err=True)
