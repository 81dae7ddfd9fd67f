"""The moving average of the weights, over tensors that may be sharded."""

from collections.abc import Callable, Mapping

import torch

from models.optimization import average_into
from stages.training.checkpoints.reader import AVERAGE_PREFIX

PREFIX = f"weights/{AVERAGE_PREFIX}"


class Averages:
    """Averages of named tensors; `read` returns the tensors as they are now."""

    def __init__(self, read: Callable[[], Mapping[str, torch.Tensor]], decay: float) -> None:
        self._read, self._decay = read, decay
        self._averages = {average_name(name): value.detach().clone() for name, value in read().items()}

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """By name; loading a checkpoint changes them in place."""
        return self._averages

    def update(self, count: int) -> None:
        """Move the averages towards the present weights; `count` updates came before."""
        for name, value in self._read().items():
            average_into(self._averages[average_name(name)], value, self._decay, count)


def average_name(name: str) -> str:
    """The name of the average of a weight: that of the same weight of another module."""
    return PREFIX + name.removeprefix("weights/")
