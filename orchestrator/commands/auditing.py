"""`illume audit`: what went into a dataset, what was dropped, why, and what changed since another version."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from orchestrator.artifacts import ArtifactStore
from orchestrator.commands.options import Places, json_option, open_workspace, place_options
from orchestrator.commands.targets import find_artifact
from orchestrator.database import Database
from orchestrator.errors import RecipeError


@click.command("audit")
@click.argument("dataset")
@click.option("--against", metavar="OTHER", help="An earlier version to compare with, given as DATASET is.")
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
    against: str | None,
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
    from data_pipelines.drift import drift_text, drift_to_json, measure_drift

    folder, *others = dataset_folders([dataset] + ([against] if against else []), places)
    try:
        summary = audit_dataset(folder)
        drift = measure_drift(folder, summary, others[0], audit_dataset(others[0])) if others else None
        written = write_decisions(folder, decisions) if decisions else 0
        if not no_page:
            page = page or Path("audit.html")
            write_audit_page(folder, page, summary, drift)
    except DatasetError as error:
        raise RecipeError(str(error)) from error
    if as_json:
        found = summary_to_json(summary) | ({"drift": drift_to_json(drift)} if drift else {})
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(summary_text(summary) + (f"\n\n{drift_text(drift)}" if drift else ""))
    if decisions:
        click.echo(f"{written:,} decisions: {decisions}", err=as_json)
    if not no_page:
        click.echo(f"page with pictures: {page}", err=as_json)


def dataset_folders(targets: Sequence[str], places: Places) -> list[Path]:
    """Local folders of datasets, each given as a folder, RUN:STAGE or digits; the workspace is opened if need be."""
    if all(Path(target).is_dir() for target in targets):
        return [Path(target) for target in targets]
    with open_workspace(places) as workspace:
        return [
            Path(target) if Path(target).is_dir() else artifact_folder(workspace.artifacts, workspace.database, target)
            for target in targets
        ]


def artifact_folder(artifacts: ArtifactStore, database: Database, target: str) -> Path:
    manifest = find_artifact(artifacts, database, target).manifest
    return artifacts.open(manifest.stage_kind, manifest.fingerprint).path
