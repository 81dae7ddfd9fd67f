"""The contract between a trained model and the training loop: passes over micro-batches, and the modules to save."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One micro-batch. The same step and index give the same micro-batch on any number of workers."""

    data: Any  # first argument of the passes' modules
    weight: float  # share of this micro-batch in the step's mean: number of images, or of trained tokens
    seed: int  # for everything random in this micro-batch
    samples: tuple[str, ...] = ()  # ids and images of its samples, for the report of a non-finite loss or a spike
    sources: tuple[int, ...] = ()  # of each sample, an index into `sources_of` the program; empty: not known
    tokens: float = 0.0  # that are computed on, padding included; 0: not counted
    padding: float = 0.0  # tokens of them that are padding

    def shared_by(self, workers: int) -> "MicroBatch":
        """With the amounts of one of several workers that compute it together."""
        if workers == 1:
            return self
        weight, tokens, padding = (amount / workers for amount in (self.weight, self.tokens, self.padding))
        return replace(self, weight=weight, tokens=tokens, padding=padding)


class OutputNames(NamedTuple):
    """What the tensors of a `PassOutput` are."""

    metrics: tuple[tuple[str, float | None], ...]  # (metric, its weight if that is a number and no tensor)
    kinds: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PassOutput:
    """What a pass's module returns: sums over the micro-batch, to be added up over micro-batches and workers."""

    loss_sum: torch.Tensor  # scalar, divided by the weight of the step's micro-batches
    metrics: dict[str, "Sum"] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()  # kinds of loss in `sample_sums`
    sample_sums: torch.Tensor | None = None  # [kinds, samples, 2]: loss and its weight, of each sample in their order

    def flatten(self) -> tuple[OutputNames, tuple[torch.Tensor, ...]]:
        """Names, and the tensors: the loss first, the sums of the samples last."""
        names, tensors = [], [self.loss_sum]
        for name, (value, weight) in self.metrics.items():
            is_tensor = isinstance(weight, torch.Tensor)
            names.append((name, None if is_tensor else float(weight)))
            tensors += [value, weight] if isinstance(weight, torch.Tensor) else [value]
        if self.sample_sums is not None:
            tensors.append(self.sample_sums)
        return OutputNames(tuple(names), self.kinds), tuple(tensors)

    @staticmethod
    def unflatten(names: OutputNames, tensors: tuple[torch.Tensor, ...]) -> "PassOutput":
        """The inverse of `flatten`."""
        rest = iter(tensors[1:])
        metrics = {name: Sum(next(rest), next(rest) if weight is None else weight) for name, weight in names.metrics}
        return PassOutput(loss_sum=tensors[0], metrics=metrics, kinds=names.kinds, sample_sums=next(rest, None))


class Sum(NamedTuple):
    """A metric's sum over a micro-batch and its divisor, which is summed up too; scalars."""

    value: torch.Tensor
    weight: torch.Tensor | float


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One backward pass and optimizer step over the micro-batches; an adversarial model has two in each step."""

    name: str
    module: nn.Module  # called as module(data, generator, step) -> PassOutput; holds only the parameters it trains
    groups: list[dict[str, Any]]  # torch parameter groups; "lr" is the peak learning rate
    first_step: int = 0  # the pass is skipped before this step
    # Modules inside `module` that a sharded strategy gathers one at a time, while the rest is gathered as a whole, once
    # a forward pass. None: never sharded, as other passes use its parameters too.
    units: tuple[nn.Module, ...] | None = ()


class TrainingProgram(Protocol):
    """A model with its training data, built inside a worker.

    It may also have what the functions `order_of`, `sources_of`, `step_flops_of`, `originals_of`, `validation_of`,
    `initial_of` and `sequence_workers_of` ask for.
    """

    @property
    def passes(self) -> tuple[Pass, ...]: ...

    @property
    def weights(self) -> Mapping[str, nn.Module]:
        """The modules whose state is saved in a checkpoint, by name; without frozen parts loaded from elsewhere."""

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        """Micro-batch `index` of a data step: data steps count optimizer steps and all skipped steps before them."""


def weight_unit_of(program_class: "ProgramClass[Any]") -> str:
    """What the weight of its micro-batches counts: the class attribute `weight_unit`, images by default."""
    unit: str = getattr(program_class, "weight_unit", "images")  # not every program has it
    return unit


def order_of(program: TrainingProgram) -> str:
    """The program's `order`: a digest of what decides which data are in which micro-batch; "" if it has none."""
    return str(getattr(program, "order", ""))  # optional, as a program of generated data has nothing to compare


def sources_of(program: TrainingProgram) -> tuple[str, ...]:
    """The names of the sources of its data, by their numbers in `MicroBatch.sources`; () if it tells none apart."""
    return tuple(getattr(program, "sources", ()))  # optional, as generated data have one source


def step_flops_of(program: TrainingProgram) -> float:
    """FLOPs of an optimizer step over all workers, without what is computed again; 0: not known."""
    return float(getattr(program, "step_flops", 0.0))  # optional, as only models with a cost function know


def sequence_workers_of(program: TrainingProgram) -> int:
    """How many workers, neighbours by rank, compute each micro-batch together.

    `micro_batch` then returns the same weight, samples and amounts on all of them, and data of which the passes compute
    this worker's part: their sums add up to those of the micro-batch. Sums of samples are whole on each of them.
    """
    return int(getattr(program, "sequence_workers", 1))  # optional, as only rows of tokens can be divided


Original = tuple[str, bytes]  # a file name and its content


def originals_of(program: TrainingProgram, step: int, index: int, samples: Collection[str]) -> Sequence[Original]:
    """Files that show some samples of a micro-batch as they are stored: images and texts. `step` is a data step."""
    read = getattr(program, "originals", None)  # optional, as generated data are stored nowhere
    return list(read(step, index, samples)) if read is not None else []


def validation_of(program: TrainingProgram) -> "Validation | None":
    """The held-out data of the program; None if it has none."""
    found: Validation | None = getattr(program, "validation", None)  # optional, see `sources_of`
    return found


class Validation(Protocol):
    """Data that are not trained on, in micro-batches for the passes of a program."""

    @property
    def num_micro_batches(self) -> int: ...

    def micro_batch(self, index: int) -> MicroBatch: ...


def unit_types_of(program_class: object) -> tuple[type[nn.Module], ...]:
    """Classes of the `units` of its passes, which are checked before a worker starts; a program may name them."""
    types: tuple[type[nn.Module], ...] = getattr(program_class, "unit_types", ())  # optional, as not all have units
    return types


def rebuilds_frozen(program: TrainingProgram) -> bool:
    """Whether the program builds all parameters that it does not train from its inputs, the same each time.

    A checkpoint then holds their digests only. A program says so by an attribute `rebuilds_frozen`.
    """
    return bool(getattr(program, "rebuilds_frozen", False))  # optional, as most programs train all they have


class InitialWeights(Protocol):
    """The weights that a training begins with, in files whose names and shapes the program has checked."""

    def read(self, name: str, offset: Sequence[int], extent: Sequence[int]) -> torch.Tensor:
        """A block of a tensor, in host memory. Names: `weights/<module>/<name in its state dict>`."""


def initial_of(program: TrainingProgram) -> InitialWeights | None:
    """Where the weights come from that a program has left on the meta device; None if it has filled all itself.

    Then each worker reads only what it holds of them. A program says so by an attribute `initial`.
    """
    found: InitialWeights | None = getattr(program, "initial", None)  # optional, as new models are in no file
    return found


Task = TypeVar("Task")  # a frozen dataclass that is sent to the training workers
ProgramClass = Callable[[Task, torch.device], TrainingProgram]  # at module level, so that workers can import it


def micro_batch_seed(seed: int, step: int, index: int) -> int:
    """A 63-bit seed that depends only on the run's seed and the position in the data (SplitMix64 finalizer)."""
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + index * 0x94D049BB133111EB) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1
