"""Which samples stand in which row of which step, as arithmetic over the index of the training data.

Position -> sample is a mixture of permutations, row -> positions a pure function of lengths. So the state of a loader
is a number of steps, and the steps that saw a sample are computed, not logged.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from data_pipelines.training_data.config import LoaderConfig
from data_pipelines.training_data.index import DROPPABLE, IndexedPart, LoadingError, TrainingIndex
from data_pipelines.training_data.mixture import Mixture, Places, Source
from data_pipelines.training_data.packing import PackPlan, RowStart
from data_pipelines.training_data.permutation import Integers, is_chosen, sample_words

POSITION_FORMAT = 1
IDS_AT_ONCE = 1 << 17  # of an index, compared with the asked ones in one go: what caches hold
PREFIX_BITS = 26  # of an id; of 100 million ids, 1.5% pass a table of 1 million asked prefixes (64 MB)


@dataclass(frozen=True, kw_only=True)
class LoaderPosition:
    """Where training stands in its data; kept with a checkpoint."""

    step: int  # the next one
    row: int
    position: int  # in the stream of samples: where `row` begins
    order: str  # digest of everything that decides the order
    format: int = POSITION_FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "LoaderPosition":
        """Raises: LoadingError if it is no position."""
        try:
            fields = json.loads(text)
            if fields["format"] != POSITION_FORMAT:
                raise LoadingError(f"loader position: format {fields['format']}, expected {POSITION_FORMAT}")
            return LoaderPosition(**fields)
        except LoadingError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise LoadingError(f"loader position: {type(error).__name__}: {error}; found {text[:80]!r}") from error


@dataclass(frozen=True, kw_only=True)
class SeenSample:
    """One sample of a row."""

    part: int  # of the mixture
    epoch: int
    index: int  # within the part
    sample_id: str
    condition_dropped: bool


class TrainingOrder:
    """The order of one training. Safe for threads."""

    def __init__(self, index: TrainingIndex, config: LoaderConfig) -> None:
        self._parts, self._config = index.parts, config
        self._index_digest = index.digest
        self._mixture = Mixture(
            seed=config.seed,
            sources=tuple(
                Source(size=len(indexed), weight=part.weight, digest=indexed.digest)
                for indexed, part in zip(index.parts, config.parts, strict=True)
            ),
        )
        self._lock = threading.Lock()  # plans remember what they have walked over
        self._whole = PackPlan(self.lengths, config.row_tokens)
        self._plan = self._whole

    @cached_property
    def digest(self) -> str:
        """Of everything that decides which samples stand in which row."""
        config = self._config
        decisive = [self._index_digest, config.seed, config.rows_per_step, config.condition_dropout]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()

    def lengths(self, start: int, stop: int) -> Integers:
        """Tokens of the samples at positions start .. stop-1; 0 where a sample is left out."""
        return self._lengths(self._mixture.at(np.arange(start, stop)))[0]

    def rows_of_step(self, step: int, *, rank: int = 0, world: int = 1) -> range:
        """The rows of a step: all, or every `world`-th of them for one of several workers."""
        first = step * self._config.rows_per_step
        return range(first + rank, first + self._config.rows_per_step, world)

    def samples_of(self, row: int) -> list[SeenSample]:
        """The samples of a row in their order, without those that are left out."""
        with self._lock:
            start, stop = self._plan.span(row)
        places = self._mixture.at(np.arange(start, stop))
        lengths, dropped = self._lengths(places)
        return [
            SeenSample(
                part=int(places.sources[at]),
                epoch=int(places.epochs[at]),
                index=int(places.indices[at]),
                sample_id=self._parts[places.sources[at]].ids[places.indices[at]].tobytes().hex(),
                condition_dropped=bool(dropped[at]),
            )
            for at in np.flatnonzero(lengths)
        ]

    def position(self, step: int) -> LoaderPosition:
        """What to keep with a checkpoint after `step` steps."""
        row = step * self._config.rows_per_step
        with self._lock:
            start = self._plan.start_of(row)
        return LoaderPosition(step=step, row=row, position=start.position, order=self.digest)

    def resume(self, position: LoaderPosition) -> None:
        """Go on from a kept position without walking over the rows before it, which can then not be asked for.

        Raises: LoadingError if the data, their order or their packing are not those of the position.
        """
        if position.order != self.digest or position.row != position.step * self._config.rows_per_step:
            raise LoadingError(
                f"the checkpoint at step {position.step} was trained on data in order {position.order[:12]}, but these "
                f"are in order {self.digest[:12]}; data sets, tokens, vocabulary or loader settings have changed"
            )
        start = RowStart(row=position.row, position=position.position)
        with self._lock:
            self._plan = PackPlan(self.lengths, self._config.row_tokens, start=start)

    def steps_that_saw(self, sample_ids: Sequence[str], *, before_step: int) -> list[list[int]]:
        """For each sample id the steps before `before_step` in which it was trained, in order."""
        ids = np.frombuffer(bytes.fromhex("".join(sample_ids)), dtype=np.uint8).reshape(-1, 32)
        which, steps = self.exposures(ids, before_step=before_step)
        bounds = np.searchsorted(which, np.arange(1, len(ids)))
        return [some.tolist() for some in np.split(steps, bounds)] if len(ids) else []

    def exposures(self, ids: npt.NDArray[np.uint8], *, before_step: int) -> tuple[Integers, Integers]:
        """(which of the ids, step) for every step before `before_step` that trained one; sorted, none twice.

        `ids` [N, 32] are bytes. One pass over the ids of the index finds all of them; the rest is arithmetic.
        """
        rows_before = before_step * self._config.rows_per_step
        if rows_before < 1 or not len(ids):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        with self._lock:
            end = self._whole.span(rows_before - 1)[1]
        found = [np.zeros((2, 0), dtype=np.int64)]
        for part, indexed in enumerate(self._parts):
            which, indices = places_of(indexed, ids)
            for epoch in range(self._mixture.epochs_before(part, end) if len(which) else 0):
                found.append(self._steps_of_epoch(part, epoch, which, indices, end))
        which, steps = np.concatenate(found, axis=1)
        order = np.lexsort((steps, which))
        which, steps = which[order], steps[order]
        is_first = np.ones(len(which), dtype=np.bool_)
        is_first[1:] = (np.diff(which) != 0) | (np.diff(steps) != 0)
        return which[is_first], steps[is_first]

    def utilization(self, num_rows: int) -> float:
        """Share of the tokens of the first rows that are not padding."""
        with self._lock:
            stop = self._whole.span(num_rows - 1)[1]
        return float(self.lengths(0, stop).sum()) / (num_rows * self._config.row_tokens)

    def _steps_of_epoch(self, part: int, epoch: int, which: Integers, indices: Integers, end: int) -> Integers:
        """[2, N]: which of the asked ids, step; in one epoch of a part."""
        places = Places(sources=np.full(len(indices), part), epochs=np.full(len(indices), epoch), indices=indices)
        positions = self._mixture.position_of(places)
        seen = np.flatnonzero((positions < end) & (self._lengths(places)[0] > 0))
        with self._lock:
            rows = self._whole.rows_of(positions[seen])
        return np.stack([which[seen], rows // self._config.rows_per_step])

    def _lengths(self, places: Places) -> tuple[Integers, npt.NDArray[np.bool_]]:
        """Lengths of samples in their epochs, and whether their condition is dropped there."""
        config = self._config
        lengths = np.empty(len(places.sources), dtype=np.int64)
        dropped = np.empty(len(places.sources), dtype=np.bool_)
        for number, part in enumerate(self._parts):
            chosen = np.flatnonzero(places.sources == number)
            indices = places.indices[chosen]
            drops = np.zeros(len(chosen), dtype=np.bool_)
            if config.condition_dropout:
                at = np.flatnonzero(part.flags[indices] & DROPPABLE)
                drops[at] = is_chosen(
                    sample_words(part.ids[indices[at]]),
                    share=config.condition_dropout,
                    seed=config.seed,
                    epochs=places.epochs[chosen[at]],
                    purpose="condition dropout",
                )
            lengths[chosen] = part.lengths[indices, drops.astype(np.int64)]
            dropped[chosen] = drops
        return lengths, dropped


def places_of(part: IndexedPart, wanted: npt.NDArray[np.uint8]) -> tuple[Integers, Integers]:
    """(which of the wanted ids [N, 32], index in the part) for every id that is in it.

    A pass over the ids, nearly all of which end at a table of prefixes: 100 million take about as long to read as a
    sorted copy of them would take to write, and nothing has to be kept.
    """
    words = sample_words(wanted)
    order = np.argsort(words, kind="stable")
    words = words[order]
    shift = np.uint64(64 - PREFIX_BITS)
    is_asked = np.zeros(1 << PREFIX_BITS, dtype=np.bool_)
    is_asked[words >> shift] = True
    found = [np.zeros((2, 0), dtype=np.int64)]
    for start in range(0, len(part), IDS_AT_ONCE):
        ids = part.ids[start : start + IDS_AT_ONCE]
        held = sample_words(ids)
        near = np.flatnonzero(is_asked[held >> shift])
        first = np.searchsorted(words, held[near])
        # More than one turn only if ids share their first 64 bits.
        while (more := np.flatnonzero(words.take(first, mode="clip") == held[near])).size:
            more = more[first[more] < len(words)]
            near, first = near[more], first[more]
            which = order[first]
            is_same = (ids[near] == wanted[which]).all(axis=1)
            found.append(np.stack([which[is_same], near[is_same] + start]))
            first = first + 1
    which, indices = np.concatenate(found, axis=1)
    return which, indices
