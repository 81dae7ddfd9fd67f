"""Which samples stand in which row of which step, as arithmetic over the index of the training data.

Position -> sample is a mixture of permutations, row -> positions a pure function of lengths. So the state of a loader
is a number of steps, and the steps that saw a sample are computed, not logged.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from data_pipelines.loader_config import LoaderConfig
from data_pipelines.mixture import Mixture, Places, Source
from data_pipelines.order import Integers, Words, is_chosen, sample_words
from data_pipelines.packing import PackPlan, RowStart
from data_pipelines.training_index import DROPPABLE, LoadingError, TrainingIndex

POSITION_FORMAT = 1


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
        found: list[list[int]] = [[] for _ in sample_ids]
        if before_step < 1 or not sample_ids:
            return found
        with self._lock:
            end = self._whole.span(before_step * self._config.rows_per_step - 1)[1]
        wanted = np.frombuffer(bytes.fromhex("".join(sample_ids)), dtype=np.uint8).reshape(-1, 32)
        for part in range(len(self._parts)):
            indices = self._find(part, wanted)
            known = np.flatnonzero(indices >= 0)
            for epoch in range(self._mixture.epochs_before(part, end) if len(known) else 0):
                for which, step in self._steps_of_epoch(part, epoch, known, indices[known], end):
                    found[which].append(step)
        return [sorted(set(steps)) for steps in found]

    def utilization(self, num_rows: int) -> float:
        """Share of the tokens of the first rows that are not padding."""
        with self._lock:
            stop = self._whole.span(num_rows - 1)[1]
        return float(self.lengths(0, stop).sum()) / (num_rows * self._config.row_tokens)

    def _steps_of_epoch(
        self, part: int, epoch: int, which: Integers, indices: Integers, end: int
    ) -> Iterator[tuple[int, int]]:
        """(which of the asked ids, step) in one epoch of a part."""
        places = Places(sources=np.full(len(indices), part), epochs=np.full(len(indices), epoch), indices=indices)
        positions = self._mixture.position_of(places)
        seen = np.flatnonzero((positions < end) & (self._lengths(places)[0] > 0))
        with self._lock:
            rows = self._whole.rows_of(positions[seen])
        yield from zip(which[seen].tolist(), (rows // self._config.rows_per_step).tolist(), strict=True)

    def _lengths(self, places: Places) -> tuple[Integers, npt.NDArray[np.bool_]]:
        """Lengths of samples in their epochs, and whether their condition is dropped there."""
        config = self._config
        lengths = np.empty(len(places.sources), dtype=np.int64)
        dropped = np.empty(len(places.sources), dtype=np.bool_)
        for number, part in enumerate(self._parts):
            chosen = np.flatnonzero(places.sources == number)
            indices = places.indices[chosen]
            drops = (part.flags[indices] & DROPPABLE).astype(np.bool_) & is_chosen(
                sample_words(part.ids[indices]),
                share=config.condition_dropout,
                seed=config.seed,
                epochs=places.epochs[chosen],
                purpose="condition dropout",
            )
            lengths[chosen] = part.lengths[indices, drops.astype(np.int64)]
            dropped[chosen] = drops
        return lengths, dropped

    def _find(self, part: int, wanted: npt.NDArray[np.uint8]) -> Integers:
        """Index of each id (as bytes) in a part, -1 where it is not in it."""
        words, order = self._sorted_words[part]
        asked = sample_words(wanted)
        at = np.searchsorted(words, asked)
        found = np.full(len(asked), -1, dtype=np.int64)
        searching = np.arange(len(asked))
        while searching.size:  # more than one turn only for ids that share their first 64 bits
            searching = searching[at[searching] < len(words)]
            searching = searching[words[at[searching]] == asked[searching]]
            candidates = order[at[searching]]
            is_same = (self._parts[part].ids[candidates] == wanted[searching]).all(axis=1)
            found[searching[is_same]] = candidates[is_same]
            searching = searching[~is_same]
            at[searching] += 1
        return found

    @cached_property
    def _sorted_words(self) -> list[tuple[Words, Integers]]:
        """The first 64 bits of all ids of each part in rising order, and whose they are."""
        found = []
        for part in self._parts:
            words = sample_words(part.ids)
            order = np.argsort(words, kind="stable").astype(np.int64)
            found.append((words[order], order))
        return found
