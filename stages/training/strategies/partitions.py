"""Stretches of tensors in row-major order, as DeepSpeed divides them, and the blocks that checkpoints store of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from stages.training.checkpoints.reader import CheckpointReader
from stages.training.checkpoints.slices import Shape, TensorSlice


@dataclass(frozen=True, kw_only=True)
class Partition:
    """What one worker holds of a tensor."""

    shape: Shape  # of the whole tensor
    start: int  # number of the first element
    tensor: torch.Tensor  # one-dimensional; shares its memory with the strategy's

    def slices(self, name: str) -> Iterator[TensorSlice]:
        at = 0
        for offset, extent in blocks(self.shape, self.start, self.start + self.tensor.numel()):
            size = math.prod(extent)
            block = self.tensor[at : at + size].view(extent)
            yield TensorSlice(name=name, shape=self.shape, offset=offset, tensor=block)
            at += size

    @torch.no_grad()
    def fill(self, reader: CheckpointReader, name: str) -> None:
        """Read this stretch of a tensor from a checkpoint."""
        at = 0
        for offset, extent in blocks(self.shape, self.start, self.start + self.tensor.numel()):
            size = math.prod(extent)
            self.tensor[at : at + size].copy_(reader.read(name, offset, extent).reshape(-1))
            at += size


def blocks(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[Shape, Shape]]:
    """Offsets and extents of the fewest blocks that hold the elements from `start` to `stop`, in order."""
    if start >= stop:
        return
    if not shape:
        yield (), ()
        return
    if len(shape) == 1:
        yield (start,), (stop - start,)
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row  # whole rows
    if first > last:  # inside one row
        yield from _in_row(shape, last, start - last * row, stop - last * row)
        return
    if start < first * row:
        yield from _in_row(shape, first - 1, start - (first - 1) * row, row)
    if first < last:
        rest = tuple(shape[1:])
        yield (first, *(0 for _ in rest)), (last - first, *rest)
    if last * row < stop:
        yield from _in_row(shape, last, 0, stop - last * row)


def _in_row(shape: Sequence[int], row: int, start: int, stop: int) -> Iterator[tuple[Shape, Shape]]:
    for offset, extent in blocks(shape[1:], start, stop):
        yield (row, *offset), (1, *extent)
