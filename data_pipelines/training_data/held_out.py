"""Samples that are held out: never trained on, so that a model can be judged by them; see `ids.is_held_out`."""

from collections.abc import Iterator
from itertools import chain, islice, zip_longest

import numpy as np
import numpy.typing as npt

from data_pipelines.training_data.config import LoadingError
from data_pipelines.training_data.ids import find_ids
from data_pipelines.training_data.index import HELD_OUT, TrainingIndex
from data_pipelines.training_data.order import ScheduledSample

MAX_NAMED = 3  # samples in a message
ROWS_AT_ONCE = 1 << 20


def held_out_samples(index: TrainingIndex, limit: int) -> list[ScheduledSample]:
    """The first held-out samples of an index, by turns of its parts, with their conditions."""
    turns = zip_longest(*(_of_part(index, number) for number in range(len(index.parts))))
    return list(islice((sample for sample in chain.from_iterable(turns) if sample is not None), limit))


def _of_part(index: TrainingIndex, number: int) -> Iterator[ScheduledSample]:
    part = index.parts[number]
    for start in range(0, len(part), ROWS_AT_ONCE):
        stop = start + ROWS_AT_ONCE
        is_usable = (part.flags[start:stop] & HELD_OUT > 0) & (part.lengths[start:stop, 0] > 0)
        for at in (np.flatnonzero(is_usable) + start).tolist():
            sample_id = part.ids[at].tobytes().hex()
            yield ScheduledSample(part=number, epoch=0, index=at, sample_id=sample_id, condition_dropped=False)


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
