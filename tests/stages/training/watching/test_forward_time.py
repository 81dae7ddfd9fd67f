"""Seconds of the forward passes."""

import time

import torch
from torch import nn

from stages.training.program import Pass
from stages.training.watching.forward_time import ForwardTime


class Sleeps(nn.Module):
    def forward(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds


def test_the_time_of_all_passes_is_added_up_and_taken_once() -> None:
    modules = [Sleeps(), Sleeps()]
    passes = [Pass(name=str(number), module=module, groups=[]) for number, module in enumerate(modules)]
    forward = ForwardTime(passes, torch.device("cpu"))
    modules[0](0.02)
    modules[1](0.03)
    time.sleep(0.01)  # the backward pass
    with forward.ignored():
        modules[0](0.02)
    assert forward.take() >= 0.05
    assert forward.take() == 0.0
    forward.close()
    modules[0](0.001)
    assert forward.take() == 0.0
