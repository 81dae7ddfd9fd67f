"""Passes as wrappers want them: they find the tensors of tuples only, not those of other classes."""

import torch
from torch import nn

from stages.training.program import OutputNames, PassOutput


class TensorsOut(nn.Module):
    """A pass that returns a tuple of tensors, and whose `PassOutput` is made of them again outside of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._names = OutputNames((), ())

    def forward(self, data: object, generator: torch.Generator, step: int) -> tuple[torch.Tensor, ...]:
        output: PassOutput = self.inner(data, generator, step)
        self._names, tensors = output.flatten()
        return tensors

    def output(self, tensors: tuple[torch.Tensor, ...]) -> PassOutput:
        """What the newest forward pass returned, from its tensors as a wrapper passed them on."""
        return PassOutput.unflatten(self._names, tensors)
