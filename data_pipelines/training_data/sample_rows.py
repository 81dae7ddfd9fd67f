"""What one shard of a dataset adds to the index of training data: its selected samples with their lengths, as a table.

Depends on this shard, its tokens, the selection and the rendering only: not on weights, rows, or other shards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipelines.datasets.reader import CuratedDataset, ShardRows
from data_pipelines.datasets.samples import TASKS_WITH_TARGETS, Sample, SampleError
from data_pipelines.tokens.conversations import can_drop_condition, rendered_lengths, target_slots
from data_pipelines.tokens.token_shards import TokenShard
from data_pipelines.training_data.config import LoadingError
from data_pipelines.training_data.index import NO_CODES, Rendering
from data_pipelines.training_data.sources import SourceFolders

BATCH = 512  # samples whose texts are tokenized together
SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("sha256", pa.string()),  # of its first image; "": it has none
        ("offset", pa.int64()),
        ("span", pa.int64()),
        ("token_row", pa.int64()),  # of the codes of image 0, or NO_CODES
        ("droppable", pa.bool_()),  # its condition can be dropped
        ("length", pa.int32()),  # tokens; 0: it cannot be trained
        ("length_without_condition", pa.int32()),
        ("reason", pa.string()),  # why it cannot be trained; "": it can
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class SampleSelection:
    """Which samples of a dataset are indexed."""

    split: str
    tasks: tuple[str, ...]
    drops_conditions: bool  # their lengths without their condition are needed too


def sample_rows(source: SourceFolders, shard: str, selection: SampleSelection, rendering: Rendering) -> Any:
    """The kept samples of a shard, in order; a table of `SCHEMA`.

    Raises: DatasetError, TokensError, SampleError, LoadingError if data are damaged.
    """
    dataset = CuratedDataset(source.dataset)
    rows = dataset.rows(shard, split=selection.split, tasks=selection.tasks)
    token_rows = _token_rows(source, shard, rows)
    lengths = np.zeros((len(rows), 2), dtype=np.int32)
    reasons, details = [""] * len(rows), [""] * len(rows)
    for index, (sample, found) in enumerate(_lengths(dataset, shard, rows, selection, rendering)):
        try:
            lengths[index] = _accepted(sample, found, has_codes=int(token_rows[index]) != NO_CODES)
        except _DroppedError as error:
            reasons[index], details[index] = error.args
    columns = [
        pa.array([sample_id.tobytes().hex() for sample_id in rows.ids], pa.string()),
        pa.array(rows.first_images, pa.string()),
        pa.array(rows.offsets),
        pa.array(rows.spans),
        pa.array(token_rows),
        pa.array([can_drop_condition(task) for task in rows.tasks], pa.bool_()),
        pa.array(lengths[:, 0]),
        pa.array(lengths[:, 1]),
        pa.array(reasons, pa.string()),
        pa.array(details, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _lengths(
    dataset: CuratedDataset, shard: str, rows: ShardRows, selection: SampleSelection, rendering: Rendering
) -> Iterator[tuple[Sample, tuple[int | SampleError, ...]]]:
    """Each sample with its length as it is and, if its condition can be dropped, without it."""
    stream = dataset.samples(shard, rows)
    drops = selection.drops_conditions
    while samples := list(islice(stream, BATCH)):
        whole = _batch_lengths(samples, rendering, drop_condition=False)
        droppable = [sample for sample in samples if can_drop_condition(sample.task)]
        dropped = iter(_batch_lengths(droppable, rendering, drop_condition=True) if drops else ())
        for sample, length in zip(samples, whole, strict=True):
            yield sample, (length, next(dropped) if drops and can_drop_condition(sample.task) else length)


def _batch_lengths(samples: list[Sample], rendering: Rendering, *, drop_condition: bool) -> list[int | SampleError]:
    return rendered_lengths(
        samples,
        tokenizer=rendering.tokenizer,
        vocabulary=rendering.vocabulary,
        sizes=rendering.sizes,
        drop_condition=drop_condition,
    )


def _accepted(sample: Sample, found: tuple[int | SampleError, ...], *, has_codes: bool) -> list[int]:
    lengths: list[int] = []
    for length in found:
        if isinstance(length, SampleError):
            raise _DroppedError("cannot_be_rendered", str(length))
        lengths.append(length)
    if not has_codes and target_slots(sample):
        raise _DroppedError("no_codes", f"sample {sample.sample_id}: its images were not tokenized")
    return lengths


def _token_rows(source: SourceFolders, shard: str, rows: ShardRows) -> npt.NDArray[np.int64]:
    found = np.full(len(rows), NO_CODES, dtype=np.int64)
    if source.tokens is None or not set(rows.tasks) & set(TASKS_WITH_TARGETS):
        return found
    first_rows: dict[str, int] = {}
    expected = ("", 0)
    for row, key in enumerate(TokenShard(source.token_shard(shard)).row_keys()):
        if key[1] == 0:
            first_rows[key[0]] = row
        elif key != expected:
            raise LoadingError(
                f"{source.token_shard(shard)}: row {row} holds image {key[1]} of sample {key[0]}, "
                "expected the images of a sample one after the other from 0; tokenize this shard again"
            )
        expected = (key[0], key[1] + 1)
    for index, sample_id in enumerate(rows.ids):
        found[index] = first_rows.get(sample_id.tobytes().hex(), NO_CODES)
    return found


class _DroppedError(Exception):
    """A sample is not trained, but keeps its position in the order. Arguments: reason, detail."""
