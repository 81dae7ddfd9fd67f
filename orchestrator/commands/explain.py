"""`illume explain` and `illume lineage`: identities of stages and the lineage of artifacts."""

import json
from collections.abc import Mapping
from typing import Any

import click

from orchestrator.artifact import Fingerprint
from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.commands.shared.completion import complete_run, complete_target
from orchestrator.commands.shared.formatting import short
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
from orchestrator.commands.shared.targets import (
    NUM_SEARCHED_RUNS,
    TargetCommand,
    find_artifact,
    find_run,
    find_target,
    is_identity_prefix,
    planned_stages,
)
from orchestrator.history.run_status import list_runs
from orchestrator.planning.plan_file import reason_from_json
from orchestrator.planning.reasons import own_changes
from orchestrator.recipe.loading import Kinds
from orchestrator.reports.lineage_graph import (
    Direction,
    LineageGraph,
    lineage_graph,
    related,
    resolve,
    to_json,
    to_mermaid,
    to_text,
    with_takedowns,
)
from orchestrator.sinks.openlineage_export import lineage_events
from orchestrator.workspace import Workspace


@click.command(
    "explain",
    cls=TargetCommand,
    epilog=examples("explain", "explain last:curated # with its whole identity", "explain last --against quickstart"),
)
@target_argument
@click.option(
    "--against", metavar="RUN", help="Compare identities with those of another run.", shell_complete=complete_run
)
@location_options
@plugin_option
@json_option
def explain_command(
    target: str | None,
    against: str | None,
    locations: Locations,
    as_json: bool,
) -> None:
    """Show why a stage is what it is: its identity, why it ran or was reused, what changed.

    For a single stage the whole identity is shown.
    """
    with open_workspace(locations) as workspace:
        found = find_target(workspace.database, target)
        run, stage = found.run.run_id, found.stage_id
        stages = planned_stages(workspace.artifacts, found.run)
        before: dict[str, Any] = {}
        if against is not None:
            other = planned_stages(workspace.artifacts, find_run(workspace.database, against))
            before = {item["id"]: item["payload"] for item in other}
    chosen = [item for item in stages if stage in (None, item["id"])]
    if as_json:
        echo_json("explain", {"run_id": run, "stages": chosen})
        return
    click.echo(f"run {run}")
    kinds = stage_kinds()
    for item in chosen:
        _print_stage(item, before.get(item["id"]), whole=stage is not None, against=against, kinds=kinds)


@click.command(
    "lineage",
    epilog=examples("lineage last:curated", "lineage quickstart:mllm --up --mermaid", "lineage 3f9a0c1b2d4e --json"),
)
@click.argument("target", shell_complete=complete_target)
@click.option("--direction", type=click.Choice(["up", "down", "both"]), default="both", show_default=True)
@click.option("--up", "direction", flag_value="up", help="Only what it was made from.")
@click.option("--down", "direction", flag_value="down", help="Only what was made from it.")
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flow chart.")
@click.option("--openlineage", is_flag=True, help="Print OpenLineage events, one JSON line for each artifact.")
@location_options
@json_option
def lineage_command(
    target: str, direction: Direction, mermaid: bool, openlineage: bool, locations: Locations, as_json: bool
) -> None:
    """Show what an artifact was made from (up) and what was made from it (down).

    TARGET is RUN:STAGE or the first digits of an artifact's identity.
    """
    with open_workspace(locations) as workspace:
        known = list(workspace.artifacts.all())
        takedowns = read_takedowns(workspace.store)
        whole = with_takedowns(lineage_graph(stored.manifest for stored in known), takedowns)
        recipes = {run.run_id: run.recipe for run in list_runs(workspace.database, limit=NUM_SEARCHED_RUNS)}
        store_url = workspace.store.url
        if not is_identity_prefix(target):
            found = find_artifact(workspace.artifacts, workspace.database, target).manifest.fingerprint
        else:
            found = Fingerprint(_resolve(workspace, whole, target))
    graph = related(whole, found, direction)
    if openlineage:
        chosen = [stored for stored in known if stored.manifest.fingerprint in graph.nodes]
        for line in lineage_events(chosen, recipes, store_url=store_url):
            click.echo(json.dumps(line))
    elif as_json:
        echo_json("lineage", to_json(graph))
    else:
        click.echo(to_mermaid(graph) if mermaid else to_text(graph, found, direction), nl=False)


def _resolve(workspace: Workspace, graph: LineageGraph, prefix: str) -> str:
    """Raises: RecipeError: no artifact or input starts with the digits, or several do."""
    if any(name.startswith(prefix.lower()) for name in graph.nodes):
        return resolve(graph, prefix)
    return find_artifact(workspace.artifacts, workspace.database, prefix).manifest.fingerprint


def _print_stage(
    item: Mapping[str, Any], before: Mapping[str, Any] | None, *, whole: bool, against: str | None, kinds: Kinds
) -> None:
    click.secho(f"{item['id']}: {item['action']}", bold=True, nl=False)
    click.echo(f"  {item['kind']} version {item['payload']['version']}, identity {short(item['fingerprint'])}")
    for reason in item["reasons"]:
        click.echo(f"  why: {reason_from_json(reason)}")
    if against is not None and before is None:
        click.echo(f"  run {against} has no such stage")
    elif before is not None:
        kind = kinds.get(item["kind"])
        changes = [str(change) for change in own_changes(before, item["payload"], kind.config if kind else None)]
        if before.get("inputs") != item["payload"]["inputs"]:
            changes.append("inputs differ")
        for change in changes or ["nothing differs"]:
            click.echo(f"  against {against}: {change}")
    if whole:
        click.echo(f"  fingerprint {item['fingerprint']} = SHA-256 of the canonical JSON of")
        click.echo("\n".join(f"    {line}" for line in json.dumps(item["payload"], indent=2).splitlines()))
