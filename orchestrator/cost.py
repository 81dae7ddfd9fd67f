"""What a training costs, as numbers that its kind derives from its config: no device is asked, nothing is loaded.

A kind that declares `cost` returns `CostFacts`; planners turn them into memory, time and money for some machines, and
the line of a step into the share of a device's peak that is used. Bytes and FLOPs are those of one item: what the
kind calls an item (a row, a sample) is said in `CostFacts.item`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


class UnknownCostError(Exception):
    """The config does not say how large the model is, for instance because it goes on from files outside the store."""


@dataclass(frozen=True, kw_only=True)
class PartCost:
    """One part of a model."""

    name: str
    parameters: int
    trained_parameters: int
    forward_flops: float  # for one item
    training_passes: float  # FLOPs of a training step over those forward: 1 frozen, 2 gradients pass, 3 weights train
    largest_unit: int = 0  # parameters that a sharded strategy gathers at once
    saved_bytes: float = 0.0  # of one item, kept from the forward for the backward pass
    recomputed_bytes: float = 0.0  # of one item, kept when the part is recomputed in the backward pass
    unit_bytes: float = 0.0  # of one item, what one recomputed unit keeps while its backward pass runs
    frozen_bytes: int = 4  # of each parameter that does not train, where the strategy is torch's

    def __post_init__(self) -> None:
        if not 0 <= self.trained_parameters <= self.parameters:
            raise ValueError(f"{self.name}: {self.trained_parameters} of {self.parameters} parameters train")


@dataclass(frozen=True, kw_only=True)
class CostFacts:
    """The whole training of one stage."""

    steps: int
    item: str  # "row of 4,096 tokens"
    items_per_step: int  # over all workers
    items_per_micro_batch: int
    tokens_per_item: float  # what the rate of the step line counts
    samples_per_item: float  # 0: not known before the data are
    precision: Literal["fp32", "bf16"]
    parts: tuple[PartCost, ...]
    recompute: bool  # whether this config recomputes the parts that can be
    temporary_bytes: float = 0.0  # of a micro-batch, beside the activations at the peak of the backward pass
    input_bytes: float = 0.0  # of one item, on the device
    moment_bytes: int = 4  # of each of the optimizer's two moments of a parameter
    cpu_seconds: float = 0.0  # of one item, to make it from the data; 0: not measured
    sharers: tuple[int, ...] = ()  # numbers of workers above 1 that can share an item (`sequence_workers`)
    assumptions: tuple[str, ...] = ()  # sentences about what no config says

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def trained_parameters(self) -> int:
        return sum(part.trained_parameters for part in self.parts)

    @property
    def training_flops(self) -> float:
        """Of one item, without those of recomputed parts: what the use of a device's peak counts."""
        return sum(part.forward_flops * part.training_passes for part in self.parts)

    @property
    def recomputed_flops(self) -> float:
        """Of one item, those that recomputation adds."""
        return sum(part.forward_flops for part in self.parts if part.recomputed_bytes and part.training_passes > 1)


@dataclass(frozen=True, kw_only=True)
class ConfigTree:
    """The config of a stage and those of the stages whose output it reads, by slot."""

    config: Any
    inputs: Mapping[str, tuple["ConfigTree", ...]]

    def first(self, slot: str) -> "ConfigTree | None":
        found = self.inputs.get(slot, ())
        return found[0] if found else None


CostFunction = Callable[[ConfigTree, Any], CostFacts]  # (configs, the kind's execution): UnknownCostError
