"""Packing of samples into rows of fixed length: the plan, a pure function of the stream of lengths, and the rows.

Next fit: a row takes samples in the order of the stream until the next one does not fit. So a row is a range of
positions, a row's end decides all that follows, and packing can continue from any known row. Samples are never split.
Legend: T tokens.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.mllm.vocabulary import IGNORED_LABEL

Integers = npt.NDArray[np.int64]
Lengths = Callable[[int, int], Integers]  # lengths of positions start .. stop-1; 0: left out of training

CHUNK = 65_536  # positions whose lengths are read at a time
FIRST_CHUNK = 1_024  # the same for the first time, so that a few rows do not wait for many lengths
MAX_DOUBLINGS = 8  # of the chunk while no row fills up


@dataclass(frozen=True, kw_only=True)
class RowStart:
    """A row and the position of its first sample, from which packing can continue."""

    row: int
    position: int


class RowPlan(Protocol):
    """Which positions of the stream are in which row. Rows are numbered from 0 over the whole training."""

    def positions(self, row: int) -> Integers:
        """The positions of a row, in order, with those of samples that are left out of training."""

    def rows_of(self, positions: npt.ArrayLike) -> Integers:
        """The row of each position."""

    def start_of(self, row: int) -> RowStart: ...

    def stop(self, row: int) -> int:
        """From this position on, no sample is in the row or in one before it."""


class PackPlan:
    """`RowPlan` by next fit: the position at which each row from `start` on begins, computed as needed and kept."""

    def __init__(self, lengths: Lengths, row_tokens: int, *, start: RowStart | None = None) -> None:
        if row_tokens < 1:
            raise ValueError(f"row_tokens: {row_tokens}; expected at least 1")
        self._lengths = lengths
        self._row_tokens = row_tokens
        self._first = start or RowStart(row=0, position=0)
        self._chunk = FIRST_CHUNK
        self._starts = array("q", [self._first.position])  # 8 bytes each: a long training has 10 million rows

    def span(self, row: int) -> tuple[int, int]:
        """First and last+1 position of a row. Raises: ValueError for a row before the start of the plan."""
        if row < self._first.row:
            raise ValueError(f"row {row}: this plan starts at row {self._first.row}; open it from an earlier position")
        self._extend_until(lambda: len(self._starts) > row - self._first.row + 1)
        return self._starts[row - self._first.row], self._starts[row - self._first.row + 1]

    def positions(self, row: int) -> Integers:
        return np.arange(*self.span(row))

    def stop(self, row: int) -> int:
        return self.span(row)[1]

    def rows_of(self, positions: npt.ArrayLike) -> Integers:
        """The row of each position; also for samples that are left out of training."""
        wanted = np.atleast_1d(np.asarray(positions, dtype=np.int64))
        if wanted.size and wanted.min() < self._first.position:
            raise ValueError(f"position {wanted.min()}: this plan starts at position {self._first.position}")
        last = int(wanted.max()) if wanted.size else -1
        self._extend_until(lambda: self._starts[-1] > last)
        starts = np.frombuffer(self._starts, dtype=np.int64)
        return np.searchsorted(starts, wanted, side="right") - 1 + self._first.row

    def start_of(self, row: int) -> RowStart:
        return RowStart(row=row, position=self.span(row)[0])

    def _extend_until(self, is_enough: Callable[[], bool]) -> None:
        chunk = min(self._chunk, CHUNK)
        while not is_enough():
            begin = self._starts[-1]
            found = row_starts(self._lengths(begin, begin + chunk), self._row_tokens)
            self._starts.extend(begin + start for start in found)
            chunk = self._chunk = min(2 * chunk, CHUNK) if found else 2 * chunk
            if chunk > CHUNK << MAX_DOUBLINGS:
                raise ValueError(
                    f"no row could be filled from {chunk} samples after position {begin}: nearly all are left out; "
                    "see the reasons in the index of the training data"
                )


def check_lengths(lengths: Integers, row_tokens: int) -> None:
    """Raises: ValueError if a length exceeds a row."""
    if lengths.size and int(lengths.max()) > row_tokens:
        raise ValueError(
            f"a sample of {int(lengths.max())} tokens in rows of {row_tokens}; leave it out or lengthen the rows"
        )


def row_starts(lengths: Integers, row_tokens: int) -> list[int]:
    """Starts of the rows after the first in a stretch of lengths; the last row found may still be open.

    Raises: ValueError if a length exceeds a row.
    """
    check_lengths(lengths, row_tokens)
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    following = np.searchsorted(ends, ends + row_tokens, side="right").tolist()  # first position that does not fit, + 1
    starts: list[int] = []
    start = 0
    while (start := following[start] - 1) < len(lengths):
        starts.append(start)
    return starts


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """A row for training. Images are in order of appearance."""

    ids: npt.NDArray[np.int64]  # T; the pad id in the padding
    labels: npt.NDArray[np.int64]  # T; the id at the same index, or IGNORED_LABEL where it is not trained
    positions: npt.NDArray[np.int64]  # T; 0, 1, .. in each sample
    segments: npt.NDArray[np.int32]  # T; 1, 2, .. for each sample, 0: padding
    images: list[npt.NDArray[np.float32]]  # CYX in [-1, 1]
    num_tokens: int  # without padding
    samples: tuple[str, ...] = ()  # names of the samples, in their order
    parts: tuple[int, ...] = ()  # of the mixture, of each sample


@dataclass(frozen=True, kw_only=True)
class PackedSample:
    """A rendered sample, ready to be packed."""

    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    images: Sequence[npt.NDArray[np.float32]]
    name: str = ""  # for messages: `sample_name`
    part: int = 0  # of the mixture that it comes from


def build_row(samples: Sequence[PackedSample], *, row_tokens: int, pad_id: int) -> PackedRow:
    """The samples one after the other, then padding. Raises: ValueError if they do not fit."""
    num_tokens = sum(len(sample.ids) for sample in samples)
    if num_tokens > row_tokens:
        raise ValueError(f"{len(samples)} samples with {num_tokens} tokens do not fit into a row of {row_tokens}")
    ids = np.full(row_tokens, pad_id, dtype=np.int64)
    labels = np.full(row_tokens, IGNORED_LABEL, dtype=np.int64)
    positions = np.zeros(row_tokens, dtype=np.int64)
    segments = np.zeros(row_tokens, dtype=np.int32)
    start = 0
    for number, sample in enumerate(samples, start=1):
        stop = start + len(sample.ids)
        ids[start:stop] = sample.ids
        labels[start:stop] = sample.labels
        labels[start] = IGNORED_LABEL  # the first token of a sample has no context to be predicted from
        positions[start:stop] = np.arange(stop - start)
        segments[start:stop] = number
        start = stop
    images = [image for sample in samples for image in sample.images]
    return PackedRow(
        ids=ids,
        labels=labels,
        positions=positions,
        segments=segments,
        images=images,
        num_tokens=num_tokens,
        samples=tuple(sample.name for sample in samples),
        parts=tuple(sample.part for sample in samples),
    )
