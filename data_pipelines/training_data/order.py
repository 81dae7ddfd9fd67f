"""The order of training: which samples are in which row of which step, computed from the index of the training data.

Position -> sample is a mixture of permutations, row -> positions a pure function of lengths. So the state of a loader
is a number of steps, and the steps that trained a sample are computed, not logged.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from data_pipelines.training_data.best_fit import WindowPlan
from data_pipelines.training_data.config import LoaderConfig, LoadingError
from data_pipelines.training_data.ids import find_ids
from data_pipelines.training_data.index import DROPPABLE, HELD_OUT, TrainingIndex
from data_pipelines.training_data.mixture import Mixture, SampleLocations, Source
from data_pipelines.training_data.packing import PackPlan, RowPlan, RowStart
from data_pipelines.training_data.permutation import Integers, is_chosen, sample_words

POSITION_FORMAT = 1
MEASURED_POSITIONS = 1 << 14  # of the stream, from which the rows of `samples_per_step` follow


@dataclass(frozen=True, kw_only=True)
class LoaderPosition:
    """The position of training in its data; saved with a checkpoint."""

    step: int  # the next one
    row: int
    position: int  # of the first sample of `row` in the stream
    order: str  # digest of everything that affects the order
    format: int = POSITION_FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "LoaderPosition":
        """Raises: LoadingError if `text` is not a position."""
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
class ScheduledSample:
    """A sample of a row, with its epoch."""

    part: int  # of the mixture
    epoch: int
    index: int  # within the part
    sample_id: str
    condition_dropped: bool


class TrainingOrder:
    """The order of the samples, rows and steps of one training. Thread-safe."""

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
        self._lock = threading.Lock()  # plans are extended while they are read
        self._whole = self._row_plan()
        self._plan = self._whole

    @cached_property
    def digest(self) -> str:
        """Digest of everything that decides which samples are in which row."""
        config = self._config
        settings = [self._index_digest, config.seed, self.rows_per_step, config.condition_dropout]
        settings += [config.packing] if config.packing != "next_fit" else []
        if any(part.condition_dropout is not None for part in config.parts):
            settings += [[config.condition_dropout_of(part) for part in config.parts]]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    @cached_property
    def rows_per_step(self) -> int:
        """Rows of one step: as configured, or as many as hold `samples_per_step` on average."""
        config = self._config
        if not config.samples_per_step:
            return config.rows_per_step
        with self._lock:
            last_row = int(self._whole.rows_of([MEASURED_POSITIONS - 1])[0])
            measured = self._whole.stop(last_row)
        num_samples = int((self.lengths(0, measured) > 0).sum())  # one at least: a row ends where a sample does not fit
        return max(1, round(config.samples_per_step * (last_row + 1) / num_samples))

    def epochs(self, steps: int) -> list[float]:
        """How often the samples of each part have been seen after so many steps, on average."""
        rows = steps * self.rows_per_step
        with self._lock:
            stop = self._whole.stop(rows - 1)
        return self._mixture.epochs(stop)

    def lengths(self, start: int, stop: int) -> Integers:
        """Tokens of the samples at positions start .. stop-1; 0 where a sample is left out."""
        return self._lengths(self._mixture.locate(np.arange(start, stop)))[0]

    def rows_of_step(self, step: int, *, rank: int = 0, world_size: int = 1) -> range:
        """The rows of a step: all of them, or every `world_size`-th for one of several workers."""
        first = step * self.rows_per_step
        return range(first + rank, first + self.rows_per_step, world_size)

    def samples_of(self, row: int) -> list[ScheduledSample]:
        """The samples of a row in their order, without those that are left out."""
        with self._lock:
            positions = self._plan.positions(row)
        samples = self._mixture.locate(positions)
        lengths, dropped = self._lengths(samples)
        return [
            ScheduledSample(
                part=int(samples.sources[number]),
                epoch=int(samples.epochs[number]),
                index=int(samples.indices[number]),
                sample_id=self._parts[samples.sources[number]].ids[samples.indices[number]].tobytes().hex(),
                condition_dropped=bool(dropped[number]),
            )
            for number in np.flatnonzero(lengths)
        ]

    def position(self, step: int) -> LoaderPosition:
        """The position to save with a checkpoint after `step` steps."""
        row = step * self.rows_per_step
        with self._lock:
            start = self._plan.start_of(row)
        return LoaderPosition(step=step, row=row, position=start.position, order=self.digest)

    def resume(self, position: LoaderPosition) -> None:
        """Continue from a saved position without packing the rows before it; those can then no longer be read.

        Raises: LoadingError if the data, their order or their packing are not those of the position.
        """
        if position.order != self.digest or position.row != position.step * self.rows_per_step:
            raise LoadingError(
                f"the checkpoint at step {position.step} was trained on data in order {position.order[:12]}, but these "
                f"are in order {self.digest[:12]}; datasets, tokens, vocabulary or loader settings have changed"
            )
        start = RowStart(row=position.row, position=position.position)
        with self._lock:
            self._plan = self._row_plan(start)

    def steps_that_saw(self, sample_ids: Sequence[str], *, before_step: int) -> list[list[int]]:
        """For each sample id, the steps before `before_step` that trained it, in order."""
        ids = np.frombuffer(bytes.fromhex("".join(sample_ids)), dtype=np.uint8).reshape(-1, 32)
        which, steps = self.exposures(ids, before_step=before_step)
        bounds = np.searchsorted(which, np.arange(1, len(ids)))
        return [part.tolist() for part in np.split(steps, bounds)] if len(ids) else []

    def exposures(self, ids: npt.NDArray[np.uint8], *, before_step: int) -> tuple[Integers, Integers]:
        """Distinct pairs (index in `ids`, step before `before_step` that trained this id) as two sorted arrays.

        `ids` are bytes [N, 32]. One pass over the ids of the index finds all of them; the rest is arithmetic.
        """
        rows_before = before_step * self.rows_per_step
        if rows_before < 1 or not len(ids):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        with self._lock:
            end = self._whole.stop(rows_before - 1)
        found = [np.zeros((2, 0), dtype=np.int64)]
        for part, indexed in enumerate(self._parts):
            which, indices = find_ids(indexed.ids, ids)
            for epoch in range(self._mixture.epochs_before(part, end) if len(which) else 0):
                found.append(self._steps_of_epoch(part, epoch, which, indices, end))
        which, steps = np.concatenate(found, axis=1)
        which, steps = which[steps < before_step], steps[steps < before_step]
        order = np.lexsort((steps, which))
        which, steps = which[order], steps[order]
        is_first = np.ones(len(which), dtype=np.bool_)
        is_first[1:] = (np.diff(which) != 0) | (np.diff(steps) != 0)
        return which[is_first], steps[is_first]

    def utilization(self, num_rows: int) -> float:
        """Share of the tokens of the first `num_rows` rows that are not padding."""
        with self._lock:
            stop = self._whole.stop(num_rows - 1)
            lengths = self.lengths(0, stop)
            used = lengths[self._whole.rows_of(np.arange(stop)) < num_rows].sum()
        return float(used) / (num_rows * self._config.row_tokens)

    def _row_plan(self, start: RowStart | None = None) -> RowPlan:
        plan = WindowPlan if self._config.packing == "best_fit" else PackPlan
        return plan(self.lengths, self._config.row_tokens, start=start)

    def _steps_of_epoch(self, part: int, epoch: int, which: Integers, indices: Integers, end: int) -> Integers:
        """[2, N]: index of a wanted id, step that trained it; in one epoch of a part."""
        samples = SampleLocations(
            sources=np.full(len(indices), part), epochs=np.full(len(indices), epoch), indices=indices
        )
        positions = self._mixture.position_of(samples)
        trained = np.flatnonzero((positions < end) & (self._lengths(samples)[0] > 0))
        with self._lock:
            rows = self._whole.rows_of(positions[trained])
        return np.stack([which[trained], rows // self.rows_per_step])

    def _lengths(self, samples: SampleLocations) -> tuple[Integers, npt.NDArray[np.bool_]]:
        """The length of each sample in its epoch, and whether its condition is dropped there."""
        config = self._config
        lengths = np.empty(len(samples.sources), dtype=np.int64)
        dropped = np.empty(len(samples.sources), dtype=np.bool_)
        for number, part in enumerate(self._parts):
            chosen = np.flatnonzero(samples.sources == number)
            indices = samples.indices[chosen]
            drops = np.zeros(len(chosen), dtype=np.bool_)
            if share := config.condition_dropout_of(config.parts[number]):
                droppable = np.flatnonzero(part.flags[indices] & DROPPABLE)
                drops[droppable] = is_chosen(
                    sample_words(part.ids[indices[droppable]]),
                    share=share,
                    seed=config.seed,
                    epochs=samples.epochs[chosen[droppable]],
                    purpose="condition dropout",
                )
            lengths[chosen] = part.lengths[indices, drops.astype(np.int64)]
            if config.held_out_share:
                lengths[chosen[part.flags[indices] & HELD_OUT > 0]] = 0
            dropped[chosen] = drops
        return lengths, dropped
