"""`illume verify`: checks committed artifacts against their digests."""

import sys
from collections.abc import Sequence
from dataclasses import asdict

import click

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.commands.shared.completion import complete_target
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    reason_option,
)
from orchestrator.commands.shared.targets import find_artifact
from orchestrator.errors import RecipeError
from orchestrator.history.changes import record_change
from orchestrator.history.database.database import Database
from orchestrator.store.commits import head
from orchestrator.store.copies.verification import Problem
from orchestrator.store.layout import ARTIFACTS, artifact_site, stored_keys
from orchestrator.store.store_identity import check_folders

MANY = 3  # damaged artifacts, from which on their share is looked at
HEALED_SHARE = 0.2  # of the checked artifacts that --heal retracts without asking


@click.command("verify", epilog=examples("verify", "verify last:curated", "verify --quick --heal"))
@click.argument("target", required=False, shell_complete=complete_target)
@click.option("--quick", is_flag=True, help="Compare lengths only, read no bytes.")
@click.option("--heal", is_flag=True, help="Retract damaged artifacts, so that the next run makes them again.")
@click.option("--yes", is_flag=True, help="With --heal: do not ask, however much is damaged.")
@location_options
@reason_option
@json_option
def verify_command(
    target: str | None,
    quick: bool,
    heal: bool,
    yes: bool,
    locations: Locations,
    as_json: bool,
) -> int:
    """Check committed artifacts against their digests.

    TARGET is RUN:STAGE or the first digits of an identity; without one, everything is checked. Exits with 1 if
    something is damaged. If much of the store is, --heal asks first: then something else is wrong, more often than not.
    """
    with open_workspace(locations, changes=heal) as workspace:
        checked = _checked(workspace.artifacts, workspace.database, target)
        damaged = {key: found for key in checked if (found := workspace.artifacts.verify(key, rehash=not quick))}
        problems = [problem for found in damaged.values() for problem in found]
        if damaged and heal:
            check_folders(workspace.store)
            _ask_before_healing(len(damaged), len(checked), problems[0], yes=yes)
            record_change(workspace.store, "heal", [str(key) for key in damaged])
            for key in damaged:
                workspace.artifacts.heal(key)
    if as_json:
        echo_json("verify", {"checked": len(checked), "problems": [asdict(problem) for problem in problems]})
    else:
        for problem in problems:
            click.echo(str(problem))
        click.echo(_verdict(len(checked), problems, heal=heal))
    return 1 if problems and not heal else 0


def _ask_before_healing(num_damaged: int, num_checked: int, example: Problem, *, yes: bool) -> None:
    """Returns if little is damaged, or a person agrees. Raises: RecipeError: nobody is there to agree."""
    if yes or num_damaged < MANY or num_damaged <= num_checked * HEALED_SHARE:
        return
    click.echo(
        f"{num_damaged} of {num_checked} artifacts look damaged, for instance {example}. Is the whole store there?",
        err=True,
    )
    question = "Retract all of them, so that they are made again?"
    if not sys.stdin.isatty():
        raise RecipeError(f"nothing was retracted. {question} Then repeat the command with --yes")
    if not click.confirm(question, err=True):
        raise RecipeError("nothing was retracted")


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
