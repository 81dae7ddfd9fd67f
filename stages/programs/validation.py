"""The validation data of a training: made when it starts, and compared with what is trained on."""

import logging
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.training_data.config import VALIDATION_SPLIT, LoaderConfig
from data_pipelines.training_data.held_out import (
    check_disjoint,
    check_disjoint_images,
    first_samples,
    held_out_samples,
    index_validation_images,
    index_validation_split,
)
from data_pipelines.training_data.ids import ids_of
from data_pipelines.training_data.image_index import ImageIndex, open_image_index
from data_pipelines.training_data.index import TrainingIndex, open_training_index
from data_pipelines.training_data.order import ScheduledSample
from data_pipelines.training_data.validation_overlap import TrainedRows, ValidationImages
from orchestrator.artifact import JSON
from orchestrator.errors import PrecheckError
from orchestrator.stage import StageContext
from stages.programs.held_out_rows import MAX_IMAGES, MAX_SAMPLES
from stages.programs.image_data import image_sources, selection_of
from stages.programs.index_config import IndexImagesConfig, validation_split
from stages.programs.index_use import PackedIndex
from stages.programs.mllm_config import MllmValidation
from stages.programs.sample_data import SampleData
from stages.training.config import TrainingExecution

logger = logging.getLogger(__name__)

FOLDER = "validation-index"
VALIDATION_OVERLAP = "validation_overlap"  # event
SHOWN = 8  # overlaps in a message


def validation_samples(data: SampleData, index: Path, context: StageContext) -> MllmValidation | None:
    """The validation split of a training of the unified model, if it validates; None: on what its index holds out.

    Raises: PrecheckError: there is nothing to validate on. LoadingError: a validation sample is trained on.
    """
    if not context.execution(TrainingExecution).watch.validate_every:
        return None
    trained = open_training_index(index, data.config, data.rendering)
    if trained.held_out:
        _report(data.config, trained, held_out_samples(trained, MAX_SAMPLES), data, context)
        return None
    folder = context.scratch / FOLDER
    split = index_validation_split(data.sources, data.config, data.rendering, folder, limit=MAX_SAMPLES)
    if split is None:
        raise PrecheckError(
            f"{context.stage_id}: execution.watch.validate_every: no sample is held out of training "
            f"(data.held_out_share: {data.config.held_out_share:g}), and the datasets have none of split "
            f"{VALIDATION_SPLIT!r}; set a share that is some samples, or validate_every to 0"
        )
    opened = open_training_index(folder, split.config, data.rendering)
    chosen = first_samples(opened, MAX_SAMPLES)
    if chosen:
        check_disjoint(trained, ids_of([sample.sample_id for sample in chosen]))
    _report(split.config, opened, chosen, data, context)
    return MllmValidation(index=PackedIndex.of(folder), config=split.config, parts=split.parts)


def validation_images(
    context: StageContext,
    config: IndexImagesConfig,
    datasets: Sequence[Path],
    index: Path,
    tokens: Sequence[Path] | None = None,
) -> PackedIndex | None:
    """The index of a training's validation images; None: it does not validate.

    Raises: PrecheckError: there are none. LoadingError: one of them is trained on.
    """
    if not context.execution(TrainingExecution).watch.validate_every:
        return None
    folder, selection = context.scratch / FOLDER, validation_split(config)
    found = index_validation_images(folder, image_sources(datasets, tokens), selection_of(selection), limit=MAX_IMAGES)
    if found is None:
        raise PrecheckError(
            f"{context.stage_id}: execution.watch.validate_every: the datasets have no image of split "
            f"{VALIDATION_SPLIT!r} that this training would use; curate records of that split too, or set "
            "validate_every to 0"
        )
    opened = [CuratedDataset(dataset) for dataset in datasets]
    check_disjoint_images(open_image_index(index, opened, selection_of(config)), found)
    images = ValidationImages()
    for number, shard, digests in _by_shard(found):
        images.add_images(opened[number], shard, digests, split=VALIDATION_SPLIT)
    tasks = config.tasks or None
    _report_overlaps(
        images, [TrainedRows(dataset=dataset, split=config.split, tasks=tasks) for dataset in opened], context
    )
    return PackedIndex.of(folder)


def _by_shard(index: ImageIndex) -> list[tuple[int, str, set[str]]]:
    """(number of the dataset, shard, its images in the index)."""
    found: dict[int, set[str]] = {}
    for group in index.groups:
        for image, shard in zip(group.images, group.shards.tolist(), strict=True):
            found.setdefault(shard, set()).add(image.tobytes().hex())
    return [(*index.shards[shard], images) for shard, images in sorted(found.items())]


def _report(
    config: LoaderConfig,
    index: TrainingIndex,
    chosen: Sequence[ScheduledSample],
    data: SampleData,
    context: StageContext,
) -> None:
    """Name what the training sees of the `chosen` samples of an index, whose parts are those of `config`."""
    of_shard: dict[tuple[int, str], set[str]] = {}
    for sample in chosen:
        part = index.parts[sample.part]
        shard = part.shard_names[int(part.shards[sample.index])]
        of_shard.setdefault((config.parts[sample.part].dataset, shard), set()).add(sample.sample_id)
    datasets = [CuratedDataset(source.dataset) for source in data.sources]
    images = ValidationImages()
    for (number, shard), ids in of_shard.items():
        images.add_samples(datasets[number], shard, ids)
    tasks: dict[tuple[int, str], set[str]] = {}  # each dataset is read once
    for trained in data.config.parts:
        tasks.setdefault((trained.dataset, trained.split), set()).update(trained.tasks)
    share = data.config.held_out_share
    rows = [
        TrainedRows(dataset=datasets[number], split=split, tasks=found, held_out_share=share)
        for (number, split), found in tasks.items()
    ]
    _report_overlaps(images, rows, context)


def _report_overlaps(images: ValidationImages, trained: Sequence[TrainedRows], context: StageContext) -> None:
    found = images.overlaps(trained)
    if not found:
        return
    samples = sorted({overlap.validation for overlap in found})
    named = "; ".join(str(overlap) for overlap in found[:SHOWN])
    message = (
        f"{len(samples)} validation samples show what is trained on too, so that their loss says too little: {named}"
    )
    logger.warning("%s: %s", context.stage_id, message)
    fields: dict[str, JSON] = {"samples": [*samples[:SHOWN]], "num_samples": len(samples), "message": message}
    context.tracker.log_event(VALIDATION_OVERLAP, fields)
