"""The samples that one step of a training consumed, and where their images lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.datasets.samples import Sample
from orchestrator.errors import RecipeError
from orchestrator.learning import Training
from orchestrator.planning.plan import Plan, PlannedStage
from orchestrator.workspace import Workspace
from stages.provenance.run_artifacts import RunArtifacts, ask_exposures

MAX_ROWS = 300_000  # of all datasets of a training: the answer takes a second, and `illume trace` has no limit
MAX_SAMPLES = 64  # whose texts are read
COLUMNS = ["sample_id", "verdict", "images", "offset", "span_bytes"]


@dataclass(frozen=True, kw_only=True)
class StepSample:
    """One sample of a step, and its span in a dataset's shard."""

    sample: Sample
    dataset: int  # the number of the training's dataset that holds it
    shard: str
    offset: int
    span_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Span:
    dataset: int
    shard: str
    offset: int
    span_bytes: int


def samples_of_step(workspace: Workspace, plan: Plan, stage_id: str, step: int) -> list[StepSample]:
    """The samples of a step, counted from 1 as metrics are, in the order of their ids; at most `MAX_SAMPLES`.

    Raises: RecipeError: the training does not say, or its datasets are too large for an answer at once.
    """
    stage = plan.stage(stage_id)
    _exposures_of(stage)
    artifacts = RunArtifacts(workspace, plan)
    if not artifacts.is_traceable(stage):
        raise RecipeError(f"{stage_id}: its data were deleted, or other code made it, so its steps cannot be computed")
    training = artifacts.training(stage)
    if step <= training.first_step:
        raise RecipeError(
            f"{stage_id}: it began at step {training.first_step}, after a takedown, with the checkpoint of another "
            "training; `illume trace SAMPLE` says in which steps a sample was read"
        )
    folders = training.inputs("datasets", lambda _path: True)
    return list(_samples(stage, training, folders, step))


def _exposures_of(stage: PlannedStage) -> Any:
    """What tells the steps of samples. Raises: RecipeError: the kind does not train, or does not say."""
    learned = stage.spec.kind.learned
    if learned is None or learned.exposures is None:
        raise RecipeError(f"{stage.id}: stage kind {stage.spec.kind.name!r} does not say which samples a step read")
    return learned.exposures


def _samples(
    stage: PlannedStage, training: Training[Any], folders: tuple[Path, ...], step: int
) -> Iterator[StepSample]:
    asked = _exposures_of(stage)
    datasets = [CuratedDataset(folder) for folder in folders]
    images, spans = _kept(stage.id, datasets)
    exposures = ask_exposures(stage, asked, training, images)
    chosen = sorted(name for name, steps in exposures.steps.items() if step - 1 in set(steps))
    for name in chosen[:MAX_SAMPLES]:
        span = spans[name]
        sample = datasets[span.dataset].read_sample(span.shard, span.offset, span.span_bytes)
        yield StepSample(
            sample=sample, dataset=span.dataset, shard=span.shard, offset=span.offset, span_bytes=span.span_bytes
        )


def _kept(stage_id: str, datasets: list[CuratedDataset]) -> tuple[dict[str, tuple[str, ...]], dict[str, _Span]]:
    """By id the images and the span of every kept sample."""
    images: dict[str, tuple[str, ...]] = {}
    spans: dict[str, _Span] = {}
    for number, dataset in enumerate(datasets):
        for shard in dataset.shards:
            table = pq.read_table(dataset.folder / "ledger" / f"{shard}.parquet", columns=COLUMNS, use_threads=False)
            for row in table.to_pylist():
                if row["verdict"] != "keep":
                    continue
                images[row["sample_id"]] = tuple(row["images"] or ())
                span = _Span(dataset=number, shard=shard, offset=row["offset"], span_bytes=row["span_bytes"])
                spans[row["sample_id"]] = span
            if len(images) > MAX_ROWS:
                raise RecipeError(
                    f"{stage_id}: learns from more than {MAX_ROWS:,} samples, too many for a page; "
                    "`illume trace SAMPLE` says in which steps a sample was read"
                )
    return images, spans
