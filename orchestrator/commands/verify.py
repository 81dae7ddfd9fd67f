"""`illume verify`: checks committed artifacts against their digests."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import click

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.commands.shared.completion import complete_target
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
)
from orchestrator.commands.shared.targets import find_artifact
from orchestrator.history.database import Database
from orchestrator.store.commits import head
from orchestrator.store.layout import ARTIFACTS, artifact_site, stored_keys
from orchestrator.store.verification import Problem


@click.command("verify", epilog=examples("verify", "verify last:curated", "verify --quick --heal"))
@click.argument("target", required=False, shell_complete=complete_target)
@click.option("--quick", is_flag=True, help="Compare lengths only, read no bytes.")
@click.option("--heal", is_flag=True, help="Retract damaged artifacts, so that the next run makes them again.")
@location_options
@json_option
def verify_command(
    target: str | None,
    quick: bool,
    heal: bool,
    locations: Locations,
    as_json: bool,
) -> int:
    """Check committed artifacts against their digests.

    TARGET is RUN:STAGE or the first digits of an identity; without one, everything is checked. Exits with 1 if
    something is damaged.
    """
    with open_workspace(locations, changes=heal) as workspace:
        checked = _checked(workspace.artifacts, workspace.database, target)
        problems: list[Problem] = []
        for key in checked:
            found = workspace.artifacts.verify(key, rehash=not quick)
            problems += found
            if found and heal:
                workspace.artifacts.heal(key)
    if as_json:
        click.echo(
            json.dumps({"checked": len(checked), "problems": [asdict(problem) for problem in problems]}, indent=2)
        )
    else:
        for problem in problems:
            click.echo(str(problem))
        click.echo(_verdict(len(checked), problems, heal=heal))
    return 1 if problems and not heal else 0


def _checked(artifacts: ArtifactStore, database: Database, target: str | None) -> list[ArtifactKey]:
    if target is None:
        keys = stored_keys(artifacts.store, ARTIFACTS)
        heads = ((key, head(artifacts.store, artifact_site(key))) for key in keys)
        return [key for key, found in heads if found.commit or found.problem]
    return [find_artifact(artifacts, database, target).manifest.key]


def _verdict(num_checked: int, problems: Sequence[Problem], *, heal: bool) -> str:
    if not problems:
        return f"{num_checked} artifacts checked, nothing is damaged"
    next_step = "retracted; `illume run` makes them again" if heal else "add --heal to have them made again"
    num_damaged = len({problem.fingerprint for problem in problems})
    return f"{num_checked} artifacts checked, {num_damaged} damaged: {next_step}"
