"""The block of a tensor that a worker holds: all of it, or some rows if the tensor is sharded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from stages.training.checkpoints.slices import Shape, TensorSlice
from stages.training.program import InitialWeights


@dataclass(frozen=True, kw_only=True)
class LocalBlock:
    tensor: torch.Tensor  # shares its memory with the parameter
    offset: Shape
    is_replicated: bool  # every worker holds all of it
    is_written: bool  # if it is sharded: whether this worker's block is saved, and not that of another replica


def local_block(tensor: torch.Tensor) -> LocalBlock:
    if not isinstance(tensor, DTensor):
        return LocalBlock(tensor=tensor, offset=(0,) * tensor.ndim, is_replicated=True, is_written=False)
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    coordinates: Sequence[int] = tensor.device_mesh.get_coordinate() or ()
    is_first = all(
        not coordinate
        for coordinate, placement in zip(coordinates, tensor.placements, strict=True)
        if placement.is_replicate()
    )
    local = tensor.to_local()
    return LocalBlock(
        tensor=local, offset=tuple(offset), is_replicated=False, is_written=is_first and local.numel() > 0
    )


def sharded_slice(name: str, tensor: torch.Tensor) -> TensorSlice | None:
    """What this worker writes of a sharded tensor; None if it is not sharded or another worker writes it."""
    block = local_block(tensor)
    if not block.is_written:
        return None
    return TensorSlice(name=name, shape=tuple(tensor.shape), offset=block.offset, tensor=block.tensor)


@torch.no_grad()
def fill(tensor: torch.Tensor, reader: InitialWeights, name: str) -> None:
    """Read this worker's block of a tensor, of a checkpoint or of the files that a training begins with, into it."""
    block = local_block(tensor)
    if block.tensor.numel():
        block.tensor.copy_(reader.read(name, block.offset, tuple(block.tensor.shape)))
