"""`illume diff`: what differs between two runs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.commands.shared.completion import complete_run
from orchestrator.commands.shared.diff_page import write_diff_page
from orchestrator.commands.shared.diff_text import run_diff_text
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    plugin_option,
    stage_kinds,
)
from orchestrator.commands.shared.targets import find_run, planned_stages
from orchestrator.commands.shared.thumbnails import stored_thumbnails
from orchestrator.errors import CorruptArtifactError, RecipeError
from orchestrator.reports.run_diff import RunDiff, StageDiff, diff_runs, diff_to_json
from orchestrator.reports.run_outputs import Output, open_output, run_outputs
from orchestrator.workspace import Workspace

if TYPE_CHECKING:
    from data_pipelines.audit.diff import DatasetDiff, DiffSide

DATASET = "dataset@1"
LEDGERS, IMAGES = "ledger/", "shards/"  # folders of a dataset; images are never downloaded


@click.command(
    "diff",
    epilog=examples("diff 20260105 last", "diff quickstart photos --no-data", "diff 20260105 last --page diff.html"),
)
@click.argument("run_a", shell_complete=complete_run)
@click.argument("run_b", shell_complete=complete_run)
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Where to write a page with images.")
@click.option("--no-data", is_flag=True, help="Do not compare the records of datasets.")
@click.option("--examples", default=12, show_default=True, help="Example records to list for each kind of change.")
@location_options
@plugin_option
@json_option
@click.pass_context
def diff_command(
    context: click.Context,
    run_a: str,
    run_b: str,
    page: Path | None,
    no_data: bool,
    examples: int,
    locations: Locations,
    as_json: bool,
) -> None:
    """Show what differs between two runs: recipe, first stages, code, environment, data, metrics, time.

    RUN_A and RUN_B are runs' ids, prefixes of them, recipes' names for their newest runs, or `last`.
    """
    from data_pipelines.audit.diff_report import dataset_diff_html, dataset_diff_lines, dataset_diff_to_json

    view = Path(context.with_resource(tempfile.TemporaryDirectory(prefix="illume-diff-"))) if page else None
    with open_workspace(locations) as workspace:
        diff = compare(workspace, run_a, run_b)
        datasets = {} if no_data else dict(_datasets(workspace.artifacts, diff, examples, view))
    if as_json:
        data = {name: dataset_diff_to_json(found) for name, (found, _, _) in datasets.items()}
        echo_json("diff", {**diff_to_json(diff), "data": data})
    else:
        click.echo(run_diff_text(diff, {name: dataset_diff_lines(found) for name, (found, _, _) in datasets.items()}))
    if page:
        parts = {name: dataset_diff_html(found, a, b) for name, (found, a, b) in datasets.items()}
        write_diff_page(diff, parts, page)
        click.echo(f"page with images: {page}", err=as_json)


def compare(workspace: Workspace, run_a: str, run_b: str) -> RunDiff:
    """The difference of two runs.

    Raises: RecipeError: there is no such run, or its plan is not in the store.
    """
    runs = [find_run(workspace.database, name) for name in (run_a, run_b)]
    sides = [
        run_outputs(workspace.artifacts, workspace.database, run, planned_stages(workspace.artifacts, run))
        for run in runs
    ]
    return diff_runs(sides[0], sides[1], stage_kinds())


def _datasets(
    artifacts: ArtifactStore, diff: RunDiff, examples: int, view: Path | None
) -> Iterator[tuple[str, tuple["DatasetDiff", "DiffSide", "DiffSide"]]]:
    """The stages of both runs that made different datasets, by id, with the comparison.

    Raises: RecipeError: a dataset is damaged.
    """
    from data_pipelines.audit.diff import diff_datasets
    from data_pipelines.datasets.reader import DatasetError

    for stage in diff.stages:
        outputs = _dataset_outputs(stage)
        if outputs is None:
            continue
        try:
            views = (None, None) if view is None else (view / stage.id / "before", view / stage.id / "after")
            before, after = (_side(artifacts, output, target) for output, target in zip(outputs, views, strict=True))
            yield stage.id, (diff_datasets(before, after, examples=examples), before, after)
        except (DatasetError, CorruptArtifactError) as error:
            raise RecipeError(f"{stage.id}: {error}; --no-data compares everything except the records") from error


def _dataset_outputs(stage: StageDiff) -> tuple[Output, Output] | None:
    before, after = (side.output if side else None for side in (stage.before, stage.after))
    if before is None or after is None or stage.outputs == "one artifact":
        return None
    return (before, after) if before.manifest.kind == after.manifest.kind == DATASET else None


def _side(artifacts: ArtifactStore, output: Output, view: Path | None) -> "DiffSide":
    from data_pipelines.audit.diff import DiffSide

    folder = open_output(artifacts, output, lambda path: not path.startswith(IMAGES))
    ledgers = {Path(entry.path).stem: entry.sha256 for entry in output.manifest.files if entry.path.startswith(LEDGERS)}
    thumbnails = None
    if view is not None:
        thumbnails = stored_thumbnails(artifacts, stage_kinds(), output.manifest, folder, view)
    return DiffSide(folder=folder, ledgers=ledgers, thumbnails=thumbnails)
