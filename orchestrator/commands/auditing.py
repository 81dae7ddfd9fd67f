"""`illume audit`: what went into a dataset, what was dropped, and why."""

import json
from pathlib import Path

import click

from orchestrator.artifacts import ArtifactStore
from orchestrator.commands.options import Places, json_option, open_workspace, place_options
from orchestrator.commands.targets import find_artifact
from orchestrator.database import Database
from orchestrator.errors import RecipeError


@click.command("audit")
@click.argument("dataset")
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the page with pictures.")
@click.option("--no-page", is_flag=True, help="Print the counts only.")
@click.option(
    "--decisions",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write a JSON line with the verdict of each line, sample, tar and orphaned file.",
)
@place_options
@json_option
def audit_command(
    dataset: str,
    page: Path | None,
    no_page: bool,
    decisions: Path | None,
    places: Places,
    as_json: bool,
) -> None:
    """Count what went into a dataset by verdict, reason, source, licence and size; write a page with pictures.

    DATASET is a folder, RUN:STAGE, or the first digits of an artifact's identity.
    """
    from data_pipelines.audit import audit_dataset, summary_text, summary_to_json
    from data_pipelines.audit_page import write_audit_page
    from data_pipelines.dataset_reader import DatasetError
    from data_pipelines.decisions import write_decisions

    folder = Path(dataset)
    if not folder.is_dir():
        with open_workspace(places) as workspace:
            folder = artifact_folder(workspace.artifacts, workspace.database, dataset)
    try:
        summary = audit_dataset(folder)
        written = write_decisions(folder, decisions) if decisions else 0
    except DatasetError as error:
        raise RecipeError(str(error)) from error
    click.echo(json.dumps(summary_to_json(summary), indent=2) if as_json else summary_text(summary))
    if decisions:
        click.echo(f"{written:,} decisions: {decisions}", err=as_json)
    if not no_page:
        target = page or Path("audit.html")
        write_audit_page(folder, target, summary)
        click.echo(f"page with pictures: {target}", err=as_json)


def artifact_folder(artifacts: ArtifactStore, database: Database, target: str) -> Path:
    manifest = find_artifact(artifacts, database, target).manifest
    return artifacts.open(manifest.stage_kind, manifest.fingerprint).path
