"""What a trained stage gives to the training loop: passes over micro-batches, and the modules to keep."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Micro:
    """One micro-batch, on the CPU. The same step and index give the same micro-batch on any number of workers."""

    data: Any  # what the passes' modules take
    weight: float  # share of this micro-batch in the step's mean: images, or trained tokens
    seed: int  # for everything random in this micro-batch
    samples: tuple[str, ...] = ()  # what it is made of, for the report of a loss that is no number


@dataclass(frozen=True, kw_only=True)
class PassOutput:
    """What a pass's module returns: sums over the micro-batch, so that micro-batches and workers can be added up."""

    loss_sum: torch.Tensor  # scalar, divided by the weight of the step's micro-batches
    metrics: dict[str, "Sum"] = field(default_factory=dict)


class Sum(NamedTuple):
    """A metric's sum over a micro-batch and what to divide it by once all are added up; scalars."""

    value: torch.Tensor
    weight: torch.Tensor | float


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One backward pass and optimizer step over the micro-batches; an adversarial model has two in each step."""

    name: str
    module: nn.Module  # called as module(data, generator, step) -> PassOutput; holds just the parameters it trains
    groups: list[dict[str, Any]]  # torch parameter groups; "lr" is the peak learning rate
    first_step: int = 0  # the pass is left out before this step


class TrainingProgram(Protocol):
    """A model with its data, built inside a worker."""

    @property
    def passes(self) -> tuple[Pass, ...]: ...

    @property
    def weights(self) -> Mapping[str, nn.Module]:
        """The modules whose state makes a checkpoint, by name; frozen parts that come from elsewhere stay out."""

    def micro(self, step: int, index: int) -> Micro:
        """`step` counts steps of data: those of the optimizer and all that were skipped before."""


Task = TypeVar("Task")  # a frozen dataclass that crosses to the training workers
ProgramClass = Callable[[Task, torch.device], TrainingProgram]  # at module level, so that workers can import it


def micro_seed(seed: int, step: int, index: int) -> int:
    """A 63-bit seed that depends on the run's seed and the place in the data alone (SplitMix64 finalizer)."""
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + index * 0x94D049BB133111EB) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1
