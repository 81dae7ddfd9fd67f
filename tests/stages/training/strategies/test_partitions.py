"""Stretches of tensors are stored as few blocks, and read back by workers that hold other stretches."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from stages.training.checkpoints.progress import PROGRESS_FILE
from stages.training.checkpoints.reader import CheckpointError, CheckpointReader, open_checkpoint
from stages.training.checkpoints.slices import Shape, slice_file
from stages.training.strategies.partitions import Partition, blocks

NAME = "weights/model/w"


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 5), (1, 1, 6), (4, 1, 3, 2)])
def test_blocks_hold_every_element_of_a_stretch_once_and_in_order(shape: Shape) -> None:
    numbers = torch.arange(math.prod(shape)).reshape(shape)
    for start in range(numbers.numel()):
        for stop in range(start, numbers.numel() + 1):
            found = [
                numbers[tuple(slice(at, at + size) for at, size in zip(offset, extent, strict=True))].reshape(-1)
                for offset, extent in blocks(shape, start, stop)
            ]
            assert torch.cat([*found, numbers.new_empty(0)]).tolist() == list(range(start, stop))
            assert len(found) <= max(1, 2 * len(shape) - 1)


def test_what_some_workers_wrote_is_read_by_others(tmp_path: Path) -> None:
    tensor = torch.randn(5, 3, 4)
    reader = write(tensor, [0, 17, 18, 50, 60], tmp_path)
    for bounds in ([0, 60], [0, 1, 29, 31, 60]):
        for start, stop in pairwise(bounds):
            part = Partition(shape=(5, 3, 4), start=start, tensor=torch.zeros(stop - start))
            part.fill(reader, NAME)
            assert torch.equal(part.tensor, tensor.reshape(-1)[start:stop])
    assert torch.equal(reader.read(NAME, (1, 0, 2), (3, 3, 2)), tensor[1:4, :, 2:])


def test_a_missing_stretch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="parts of 1 tensors are missing"):
        write(torch.randn(5, 3, 4), [0, 17, 59], tmp_path)


def write(tensor: torch.Tensor, bounds: list[int], folder: Path) -> CheckpointReader:
    """A checkpoint of one tensor, a file for each stretch."""
    for number, (start, stop) in enumerate(pairwise(bounds)):
        part = Partition(shape=tuple(tensor.shape), start=start, tensor=tensor.reshape(-1)[start:stop])
        data = b"".join(slice_file(part.slices(NAME)).chunks())
        (folder / f"worker-{number}.safetensors").write_bytes(data)
    state = {"format": 3, "step": 1, "skips": [], "tensors": [NAME], "frozen": {}}
    (folder / PROGRESS_FILE).write_text(json.dumps(state))
    return open_checkpoint(folder)
