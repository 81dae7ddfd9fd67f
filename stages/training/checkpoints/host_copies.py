"""Copies of a worker's slices in host memory: one set, used again once the checkpoint before is written."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from stages.training.checkpoints.slices import Shape, TensorSlice


class HostCopies:
    """Memory for the slices of one worker, pinned if they are on an accelerator, so that it copies at full speed."""

    def __init__(self) -> None:
        self._copies: dict[tuple[str, Shape], torch.Tensor] = {}

    @torch.no_grad()
    def take(self, slices: Sequence[TensorSlice]) -> list[TensorSlice]:
        """Copies that further training does not change. They are valid until the next call."""
        before, self._copies = self._copies, {}
        taken = []
        for item in slices:
            key = (item.name, item.offset)
            copy = before.pop(key, None)
            if copy is None or (copy.shape, copy.dtype) != (item.tensor.shape, item.tensor.dtype):
                copy = torch.empty(item.tensor.shape, dtype=item.tensor.dtype, pin_memory=item.tensor.is_cuda)
            copy.copy_(item.tensor, non_blocking=True)
            self._copies[key] = copy
            taken.append(replace(item, tensor=copy))
        if any(item.tensor.is_cuda for item in slices):
            torch.cuda.current_stream().synchronize()  # once for all of them
        return taken
