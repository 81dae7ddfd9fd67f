"""`illume audit`: what went into a dataset, what was dropped, why, and what changed since another version."""

import datetime
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.artifact import Manifest
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.commands.shared.options import Places, json_option, open_workspace, place_options
from orchestrator.commands.shared.targets import find_artifact
from orchestrator.errors import RecipeError
from orchestrator.history.database import Database

if TYPE_CHECKING:
    from data_pipelines.audit.summary import AuditSummary

OUT_FILE = click.Path(path_type=Path, dir_okay=False)

DESCRIPTION_OPTIONS = (
    click.option(
        "--croissant", type=OUT_FILE, help="Where to write a description in Croissant 1.1; best beside the data."
    ),
    click.option("--card", type=OUT_FILE, help="Where to write a dataset card for Hugging Face."),
    click.option("--creator", default="", help="Who made the dataset, for both descriptions."),
    click.option("--url", default="", help="Where the dataset can be had, for both descriptions."),
    click.option("--release", default="1.0.0", show_default=True, help="Its version, for both descriptions."),
    click.option("--published", type=click.DateTime(["%Y-%m-%d"]), help="The day for both descriptions; else today."),
)


@dataclass(frozen=True, kw_only=True)
class Descriptions:
    """What `illume audit` writes for people elsewhere, and what a person says for it."""

    croissant: Path | None
    card: Path | None
    creator: str
    url: str
    release: str
    published: datetime.datetime | None


@dataclass(frozen=True, kw_only=True)
class DatasetPlace:
    """A dataset's local folder; the manifest is None for a folder that no store is known to hold."""

    folder: Path
    manifest: Manifest | None = None


def description_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What to write for people elsewhere, as `descriptions`."""

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
        asked = Descriptions(
            croissant=croissant, card=card, creator=creator, url=url, release=release, published=published
        )
        return command(descriptions=asked, **rest)

    decorated: Callable[..., Any] = with_descriptions
    for option in reversed(DESCRIPTION_OPTIONS):
        decorated = option(decorated)
    return decorated


@click.command("audit")
@click.argument("dataset")
@click.option("--against", metavar="OTHER", help="An earlier version to compare with, given as DATASET is.")
@click.option("--page", type=OUT_FILE, help="Where to write the page with pictures.")
@click.option("--no-page", is_flag=True, help="Write no page.")
@click.option(
    "--decisions",
    type=OUT_FILE,
    help="Where to write a JSON line with the verdict of each line, sample, tar and orphaned file.",
)
@description_options
@place_options
@json_option
def audit_command(
    dataset: str,
    against: str | None,
    page: Path | None,
    no_page: bool,
    decisions: Path | None,
    places: Places,
    descriptions: Descriptions,
    as_json: bool,
) -> None:
    """Count what went into a dataset by verdict, reason, source, licence and size; write a page with pictures.

    DATASET is a folder, RUN:STAGE, or the first digits of an artifact's identity.
    """
    from data_pipelines.audit.decisions import write_decisions
    from data_pipelines.audit.drift import drift_text, drift_to_json, measure_drift
    from data_pipelines.audit.page import write_audit_page
    from data_pipelines.audit.summary import audit_dataset, summary_text, summary_to_json
    from data_pipelines.datasets.reader import DatasetError

    written: list[str] = []
    place, *others = dataset_places([dataset] + ([against] if against else []), places)
    try:
        summary = audit_dataset(place.folder)
        other = others[0].folder if others else None
        drift = measure_drift(place.folder, summary, other, audit_dataset(other)) if other else None
        if decisions:
            written.append(f"{write_decisions(place.folder, decisions):,} decisions: {decisions}")
        if not no_page:
            page = page or Path("audit.html")
            write_audit_page(place.folder, page, summary, drift)
            written.append(f"page with pictures: {page}")
        written += _describe(place, summary, descriptions)
    except DatasetError as error:
        raise RecipeError(str(error)) from error
    if as_json:
        found = summary_to_json(summary) | ({"drift": drift_to_json(drift)} if drift else {})
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(summary_text(summary) + (f"\n\n{drift_text(drift)}" if drift else ""))
    for line in written:
        click.echo(line, err=as_json)


def _describe(place: DatasetPlace, summary: "AuditSummary", asked: Descriptions) -> list[str]:
    """Write the descriptions that were asked for; a line for each."""
    from data_pipelines.publishing.croissant import DatasetFile, croissant_metadata, hash_files, write_croissant
    from data_pipelines.publishing.dataset_card import dataset_card
    from data_pipelines.publishing.publication import Publication

    day = {"published": asked.published.date()} if asked.published else {}
    publication = Publication(creator=asked.creator, url=asked.url, version=asked.release, **day)
    written = []
    if asked.croissant:
        entries = place.manifest.files if place.manifest else None
        files = (
            [DatasetFile(path=one.path, num_bytes=one.bytes, sha256=one.sha256) for one in entries]
            if entries is not None
            else hash_files(place.folder)
        )
        write_croissant(asked.croissant, croissant_metadata(place.folder, summary, files, publication))
        written.append(f"Croissant description: {asked.croissant}")
    if asked.card:
        asked.card.write_text(dataset_card(summary, publication), encoding="utf-8")
        written.append(f"dataset card: {asked.card}")
    return written


def dataset_places(targets: Sequence[str], places: Places) -> list[DatasetPlace]:
    """Datasets, each given as a folder, RUN:STAGE or digits; the workspace is opened only if need be."""
    if all(Path(target).is_dir() for target in targets):
        return [DatasetPlace(folder=Path(target)) for target in targets]
    with open_workspace(places) as workspace:
        return [
            DatasetPlace(folder=Path(target))
            if Path(target).is_dir()
            else _stored_dataset(workspace.artifacts, workspace.database, target)
            for target in targets
        ]


def _stored_dataset(artifacts: ArtifactStore, database: Database, target: str) -> DatasetPlace:
    from data_pipelines.datasets.reader import is_table

    manifest = find_artifact(artifacts, database, target).manifest
    opened = artifacts.open(manifest.stage_kind, manifest.fingerprint, only=is_table)
    return DatasetPlace(folder=opened.path, manifest=manifest)
