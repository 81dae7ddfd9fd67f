"""Copies in host memory do not follow the training, and use the same memory for the next checkpoint."""

import torch

from stages.training.checkpoints.host_copies import HostCopies
from stages.training.checkpoints.slices import TensorSlice, whole


def test_a_copy_stays_as_it_was_taken() -> None:
    weight = torch.ones(3, 2)
    (copy,) = HostCopies().take([whole("w", weight)])
    weight += 1
    assert copy.tensor.tolist() == [[1.0, 1.0]] * 3
    assert (copy.name, copy.shape, copy.offset) == ("w", (3, 2), (0, 0))


def test_a_column_of_a_tensor_is_copied_without_the_rest() -> None:
    (copy,) = HostCopies().take([whole("w", torch.arange(6.0).view(3, 2)[:, 1])])
    assert copy.tensor.is_contiguous()
    assert copy.tensor.tolist() == [1.0, 3.0, 5.0]


def test_the_next_checkpoint_uses_the_same_memory_for_what_has_the_same_size() -> None:
    copies, weight = HostCopies(), torch.ones(4, 2)
    halves = [TensorSlice(name="w", shape=(4, 2), offset=(at, 0), tensor=weight[at : at + 2]) for at in (0, 2)]
    first = [copy.tensor.data_ptr() for copy in copies.take(halves)]
    weight += 1
    second = copies.take(halves)
    assert [copy.tensor.data_ptr() for copy in second] == first
    assert len(set(first)) == 2
    assert all((copy.tensor == 2).all() for copy in second)
    (grown,) = copies.take([whole("w", torch.zeros(5))])
    assert grown.tensor.tolist() == [0.0] * 5
