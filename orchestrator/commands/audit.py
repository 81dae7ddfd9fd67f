"""`illume audit`: reports what a dataset contains, what was dropped and why, and the changes since another version."""

import datetime
import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.artifact import Manifest
from orchestrator.commands.shared.completion import complete_target
from orchestrator.commands.shared.dataset_origin import dataset_origin, failed_origin
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    stage_kinds,
)
from orchestrator.commands.shared.targets import find_artifact, find_target
from orchestrator.commands.shared.thumbnails import stored_thumbnails
from orchestrator.errors import RecipeError
from orchestrator.retention.failed_output import newest_failed
from orchestrator.workspace import Workspace

if TYPE_CHECKING:
    from data_pipelines.audit.drift import Drift
    from data_pipelines.audit.origin import Origin
    from data_pipelines.audit.summary import AuditSummary

OUT_FILE = click.Path(path_type=Path, dir_okay=False)

DESCRIPTION_OPTIONS = (
    click.option(
        "--croissant", type=OUT_FILE, help="Where to write a description in Croissant 1.1; best next to the data."
    ),
    click.option("--card", type=OUT_FILE, help="Where to write a dataset card for Hugging Face."),
    click.option("--creator", default="", help="Who made the dataset, for both descriptions."),
    click.option("--url", default="", help="Where the dataset is available, for both descriptions."),
    click.option("--release", default="1.0.0", show_default=True, help="Its version, for both descriptions."),
    click.option("--published", type=click.DateTime(["%Y-%m-%d"]), help="The day for both descriptions; else today."),
)


@dataclass(frozen=True, kw_only=True)
class Descriptions:
    """The descriptions that `illume audit` writes, and the values for them that the user gives."""

    croissant: Path | None
    card: Path | None
    creator: str
    url: str
    release: str
    published: datetime.datetime | None


@dataclass(frozen=True, kw_only=True)
class DatasetFolder:
    """A dataset's local folder, with its manifest if it comes from the store."""

    folder: Path
    manifest: Manifest | None = None
    thumbnails: Path | None = None  # folder of small images, for a page
    origin: "Origin | None" = None  # for a page


def description_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the descriptions; passed on as `descriptions`."""

    @functools.wraps(command)
    def with_descriptions(
        *,
        croissant: Path | None,
        card: Path | None,
        creator: str,
        url: str,
        release: str,
        published: datetime.datetime | None,
        **rest: Any,
    ) -> Any:
        descriptions = Descriptions(
            croissant=croissant, card=card, creator=creator, url=url, release=release, published=published
        )
        return command(descriptions=descriptions, **rest)

    decorated: Callable[..., Any] = with_descriptions
    for option in reversed(DESCRIPTION_OPTIONS):
        decorated = option(decorated)
    return decorated


@click.command(
    "audit",
    epilog=examples(
        "audit last:curated",
        "audit last:curated --against quickstart:curated --page audit.html",
        "audit folder/of/dataset --decisions verdicts.jsonl --no-page",
    ),
)
@click.argument("dataset", shell_complete=complete_target)
@click.option(
    "--against",
    metavar="OTHER",
    help="An earlier version to compare with, given as DATASET is.",
    shell_complete=complete_target,
)
@click.option("--page", type=OUT_FILE, help="Where to write the page with images.")
@click.option("--no-page", is_flag=True, help="Write no page.")
@click.option(
    "--records",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of ingested records that DATASET was made from, for images of dropped records. Can be repeated; "
    "needed only if DATASET is a folder.",
)
@click.option(
    "--decisions",
    type=OUT_FILE,
    help="Where to write a JSON line with the verdict of each line, sample, tar and orphaned file.",
)
@description_options
@location_options
@json_option
@click.pass_context
def audit_command(
    context: click.Context,
    dataset: str,
    against: str | None,
    page: Path | None,
    no_page: bool,
    records: tuple[Path, ...],
    decisions: Path | None,
    locations: Locations,
    descriptions: Descriptions,
    as_json: bool,
) -> None:
    """Count what went into a dataset by verdict, reason, source, licence and size; write a page with images.

    DATASET is a folder, RUN:STAGE, or the first digits of an artifact's identity.
    """
    from data_pipelines.audit.decisions import write_decisions
    from data_pipelines.audit.drift import drift_text, drift_to_json, measure_drift
    from data_pipelines.audit.summary import audit_dataset, summary_text, summary_to_json

    written: list[str] = []
    view = None if no_page else Path(context.with_resource(tempfile.TemporaryDirectory(prefix="illume-audit-")))
    current, *others = dataset_folders([dataset] + ([against] if against else []), locations, view=view)
    summary = audit_dataset(current.folder)
    other = others[0].folder if others else None
    drift = measure_drift(current.folder, summary, other, audit_dataset(other)) if other else None
    if decisions:
        written.append(f"{write_decisions(current.folder, decisions):,} decisions: {decisions}")
    if view is not None:
        page = page or Path("audit.html")
        _write_page(current, page, summary, drift, records=records, view=view)
        written.append(f"page with images: {page}")
    written += _describe(current, summary, descriptions)
    if as_json:
        found = summary_to_json(summary) | ({"drift": drift_to_json(drift)} if drift else {})
        echo_json("audit", found)
    else:
        click.echo(summary_text(summary) + (f"\n\n{drift_text(drift)}" if drift else ""))
    for line in written:
        click.echo(line, err=as_json)


def _write_page(
    current: DatasetFolder,
    page: Path,
    summary: "AuditSummary",
    drift: "Drift | None",
    *,
    records: Sequence[Path],
    view: Path,
) -> None:
    from data_pipelines.audit.page import write_audit_page
    from data_pipelines.audit.thumbnails import derive_thumbnails

    thumbnails = current.thumbnails
    if records:
        thumbnails = view / "given"
        derive_thumbnails(current.folder, records, thumbnails)
    write_audit_page(current.folder, page, summary, drift, thumbnails=thumbnails, origin=current.origin)


def _describe(current: DatasetFolder, summary: "AuditSummary", descriptions: Descriptions) -> list[str]:
    """Write the requested descriptions; returns a line of text for each."""
    from data_pipelines.publishing.croissant import DatasetFile, croissant_metadata, hash_files, write_croissant
    from data_pipelines.publishing.dataset_card import dataset_card
    from data_pipelines.publishing.publication import Publication

    published = {"published": descriptions.published.date()} if descriptions.published else {}
    publication = Publication(
        creator=descriptions.creator, url=descriptions.url, version=descriptions.release, **published
    )
    written = []
    if descriptions.croissant:
        entries = current.manifest.files if current.manifest else None
        files = (
            [DatasetFile(path=entry.path, num_bytes=entry.bytes, sha256=entry.sha256) for entry in entries]
            if entries is not None
            else hash_files(current.folder)
        )
        write_croissant(descriptions.croissant, croissant_metadata(current.folder, summary, files, publication))
        written.append(f"Croissant description: {descriptions.croissant}")
    if descriptions.card:
        descriptions.card.write_text(dataset_card(current.folder, summary, publication), encoding="utf-8")
        written.append(f"dataset card: {descriptions.card}")
    return written


def dataset_folders(targets: Sequence[str], locations: Locations, *, view: Path | None = None) -> list[DatasetFolder]:
    """The folders of datasets given as a folder, RUN:STAGE or digits; the workspace is opened only if needed.

    `view`: an empty folder for thumbnails of the first dataset.
    """
    if all(Path(target).is_dir() for target in targets):
        return [DatasetFolder(folder=Path(target)) for target in targets]
    with open_workspace(locations) as workspace:
        return [
            DatasetFolder(folder=Path(target))
            if Path(target).is_dir()
            else _stored_dataset(workspace, target, view if number == 0 else None)
            for number, target in enumerate(targets)
        ]


def _failed_dataset(workspace: Workspace, target: str) -> DatasetFolder | None:
    """What the newest failed attempt at RUN:STAGE found, None if there is nothing or the target is no such name."""
    try:
        found = find_target(workspace.database, target)
    except RecipeError:
        return None
    if found.stage_id is None:
        return None
    run_id = found.status.run.run_id
    folder = newest_failed(workspace.artifacts.cache, run_id, found.stage_id)
    if folder is None:
        return None
    origin = failed_origin(
        workspace.artifacts,
        workspace.runs,
        stage_kinds(),
        run_id=run_id,
        stage_id=found.stage_id,
        attempt=folder.name,
    )
    return DatasetFolder(folder=folder, origin=origin)


def _stored_dataset(workspace: Workspace, target: str, view: Path | None) -> DatasetFolder:
    from data_pipelines.datasets.reader import is_table

    artifacts = workspace.artifacts
    try:
        stored = find_artifact(artifacts, workspace.database, target)
    except RecipeError:
        failed = _failed_dataset(workspace, target)
        if failed is None:
            raise
        click.echo(
            f"warning: {target} is not committed: shown is what its failed attempt {failed.folder.name} found", err=True
        )
        return failed
    manifest = stored.manifest
    opened = artifacts.open(manifest.key, only=is_table)
    if view is None:
        return DatasetFolder(folder=opened.path, manifest=manifest)
    return DatasetFolder(
        folder=opened.path,
        manifest=manifest,
        thumbnails=stored_thumbnails(artifacts, stage_kinds(), manifest, opened.path, view / "stored"),
        origin=dataset_origin(artifacts, workspace.runs, stage_kinds(), stored),
    )
