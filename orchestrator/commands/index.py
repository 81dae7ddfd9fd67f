"""`illume index rebuild`: makes the database again from the store."""

import json
from dataclasses import asdict

import click

from orchestrator.commands.shared.options import Places, json_option, open_workspace, place_options
from orchestrator.history.rebuild import rebuild_index


@click.group("index")
def index_command() -> None:
    """The index database, which can always be made again from the store."""


@index_command.command("rebuild")
@place_options
@json_option
def rebuild_command(places: Places, as_json: bool) -> None:
    """Make every row of the database again from the store. Nothing in the store is changed."""
    with open_workspace(places) as workspace:
        report = rebuild_index(workspace.database, workspace.artifacts)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
        return
    click.echo(f"{report.runs} runs, {report.events} events, {report.artifacts} artifacts")
    for problem in report.problems:
        click.echo(f"warning: {problem}", err=True)
