"""The held-out samples of a training of the unified model, as its validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from data_pipelines.training_data.loader import TrainingData
from data_pipelines.training_data.packing import PackedRow
from stages.training.program import MicroBatch

MAX_SAMPLES = 256  # packed into rows, which stay in memory


@dataclass(kw_only=True)
class HeldOutRows:
    """Implements `stages.training.program.Validation`: a micro-batch is a row, the same each time."""

    data: TrainingData
    batch: Callable[[Sequence[PackedRow], int], MicroBatch]  # of rows, with a seed

    @cached_property
    def _rows(self) -> list[PackedRow]:
        return self.data.held_out_rows(MAX_SAMPLES)

    @property
    def num_micro_batches(self) -> int:
        """Raises: LoadingError: a sample cannot be read."""
        return len(self._rows)

    def micro_batch(self, index: int) -> MicroBatch:
        return self.batch([self._rows[index]], index)
