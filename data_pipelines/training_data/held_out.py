"""Samples and images that are never trained on, so that a model can be judged by them.

They are held out by a share, see `ids.is_held_out`, or they are the validation split of the datasets, of which an index
of its own is made: small, as the first few hundred are enough.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.training_data.config import (
    VALIDATION_SPLIT,
    LoaderConfig,
    LoadingError,
    LoadingGuards,
    MixturePart,
)
from data_pipelines.training_data.ids import find_ids
from data_pipelines.training_data.image_index import (
    ROW,
    ImageIndex,
    ImageSelection,
    Rows,
    merge_images,
    shard_images,
    usable_ids,
)
from data_pipelines.training_data.index import HELD_OUT, Rendering, TrainingIndex
from data_pipelines.training_data.index_build import merge_samples, selection_of
from data_pipelines.training_data.order import ScheduledSample
from data_pipelines.training_data.sample_rows import SCHEMA, sample_rows
from data_pipelines.training_data.sources import SourceFolders

MAX_NAMED = 3  # samples in a message
ROWS_AT_ONCE = 1 << 20


def held_out_samples(index: TrainingIndex, limit: int) -> list[ScheduledSample]:
    """The first held-out samples of an index, by turns of its parts, with their conditions."""
    return _by_turns(index, limit, HELD_OUT)


def first_samples(index: TrainingIndex, limit: int) -> list[ScheduledSample]:
    """The same of samples that are not held out: all, in the index of a validation split."""
    return _by_turns(index, limit, 0)


def _by_turns(index: TrainingIndex, limit: int, flag: int) -> list[ScheduledSample]:
    turns = zip_longest(*(_of_part(index, number, flag) for number in range(len(index.parts))))
    return list(islice((sample for sample in chain.from_iterable(turns) if sample is not None), limit))


def _of_part(index: TrainingIndex, number: int, flag: int) -> Iterator[ScheduledSample]:
    part = index.parts[number]
    for start in range(0, len(part), ROWS_AT_ONCE):
        stop = start + ROWS_AT_ONCE
        is_usable = (part.flags[start:stop] & HELD_OUT == flag) & (part.lengths[start:stop, 0] > 0)
        for at in (np.flatnonzero(is_usable) + start).tolist():
            sample_id = part.ids[at].tobytes().hex()
            yield ScheduledSample(part=number, epoch=0, index=at, sample_id=sample_id, condition_dropped=False)


@dataclass(frozen=True, kw_only=True)
class ValidationSplit:
    """The samples of the validation split of a training's parts, as far as these have some."""

    config: LoaderConfig  # of their index
    parts: tuple[int, ...]  # of the training, those with samples


def index_validation_split(
    sources: Sequence[SourceFolders], config: LoaderConfig, rendering: Rendering, out: Path, *, limit: int
) -> ValidationSplit | None:
    """Write the index of the first samples of the validation split, as many of each part; None: there are none.

    Reads the shards in order until there are enough. Raises: as `merge_samples`.
    """
    asked = [replace(part, split=VALIDATION_SPLIT) for part in config.parts]
    quota = -(-limit // len(asked))
    tables = [_first_rows(sources[part.dataset], part, config, rendering, quota) for part in asked]
    parts = tuple(number for number, of_shards in enumerate(tables) if any(map(len, of_shards)))
    if not parts:
        return None
    kept = replace(config, parts=tuple(asked[number] for number in parts), held_out_share=0.0)
    merge_samples(
        sources, kept, rendering, out, [tables[number] for number in parts], LoadingGuards(max_dropped_share=1.0)
    )
    return ValidationSplit(config=kept, parts=parts)


def _first_rows(
    source: SourceFolders, part: MixturePart, config: LoaderConfig, rendering: Rendering, quota: int
) -> list[Any]:
    """For each shard a table of the rows that are taken from it."""
    found: list[Any] = []
    for shard in CuratedDataset(source.dataset).shards:
        table = sample_rows(source, shard, selection_of(part, config), rendering) if quota else SCHEMA.empty_table()
        found.append(table.slice(0, quota))
        quota -= len(found[-1])
    return found


def index_validation_images(
    out: Path, sources: Sequence[SourceFolders], selection: ImageSelection, *, limit: int
) -> ImageIndex | None:
    """Write the index of the first images of a selection, as many of each dataset; None: there are none.

    Reads the ledgers in order until there are enough. Raises: as `merge_images`.
    """
    datasets = [CuratedDataset(source.dataset) for source in sources]
    quota = -(-limit // len(datasets))
    rows = [
        of_shard
        for source, dataset in zip(sources, datasets, strict=True)
        for of_shard in _first_images(source, dataset, selection, quota)
    ]
    return merge_images(out, datasets, selection, rows) if any(map(len, rows)) else None


def _first_images(
    source: SourceFolders, dataset: CuratedDataset, selection: ImageSelection, quota: int
) -> Iterator[Rows]:
    for shard in dataset.shards:
        found: Rows = np.zeros(0, dtype=ROW)
        if quota:
            found = shard_images(dataset, shard, selection, usable_ids(source, shard, selection))[:quota]
        quota -= len(found)
        yield found


def check_disjoint(index: TrainingIndex, ids: npt.NDArray[np.uint8]) -> None:
    """Raises: LoadingError if a sample of a validation set, ids [N, 32], is trained on; it names some of them."""
    shared: dict[str, int] = {}
    for number, part in enumerate(index.parts):
        which, at = find_ids(part.ids, ids)
        is_trained = (part.flags[at] & HELD_OUT == 0) & (part.lengths[at, 0] > 0)
        shared.update((ids[row].tobytes().hex(), number) for row in which[is_trained].tolist())
    if shared:
        named = ", ".join(f"{sample_id} (part {number})" for sample_id, number in list(shared.items())[:MAX_NAMED])
        raise LoadingError(
            f"{len(shared)} of {len(ids)} validation samples are trained on: {named}; take another split, or set "
            "data.held_out_share"
        )


def check_disjoint_images(index: ImageIndex, validation: ImageIndex) -> None:
    """Raises: LoadingError if an image of a validation set is trained on; it names some of them, with their shards."""
    total = sum(len(group) for group in validation.groups)
    images = np.concatenate([group.images for group in validation.groups])
    shared: dict[str, str] = {}
    for group in index.groups:
        which, at = find_ids(group.images, images)
        for row, place in zip(which.tolist(), at.tolist(), strict=True):
            number, shard = index.shards[group.shards[place]]
            shared[images[row].tobytes().hex()] = f"dataset {number}, shard {shard}"
    if shared:
        named = ", ".join(f"{image} ({where})" for image, where in list(shared.items())[:MAX_NAMED])
        raise LoadingError(
            f"{len(shared)} of {total} validation images are trained on: {named}; curate the datasets together, or "
            "leave these images out of one of them"
        )
