"""What a model is judged by while it trains: held-out samples and images, each implementing `program.Validation`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from data_pipelines.training_data.image_batches import ImageBatch, ImageBatches
from data_pipelines.training_data.packing import PackedRow
from stages.training.program import MicroBatch

MAX_SAMPLES = 256  # packed into rows, which stay in memory
MAX_IMAGES = 1_024


@dataclass(kw_only=True)
class HeldOutRows:
    """A micro-batch is a row, the same each time."""

    rows: Callable[[int], list[PackedRow]]  # of so many samples
    batch: Callable[[Sequence[PackedRow], int], MicroBatch]  # of rows, with a seed

    @cached_property
    def _rows(self) -> list[PackedRow]:
        return self.rows(MAX_SAMPLES)

    @property
    def num_micro_batches(self) -> int:
        """Raises: LoadingError: a sample cannot be read."""
        return len(self._rows)

    def micro_batch(self, index: int) -> MicroBatch:
        return self.batch([self._rows[index]], index)


@dataclass(frozen=True, kw_only=True)
class HeldOutImages:
    """A micro-batch is one of images, as in training, the same each time."""

    batches: ImageBatches
    batch: Callable[[ImageBatch, int], MicroBatch]  # of images, with a seed

    @property
    def num_micro_batches(self) -> int:
        return self.batches.num_micro_batches

    def micro_batch(self, index: int) -> MicroBatch:
        return self.batch(self.batches.micro_batch(index), index)
