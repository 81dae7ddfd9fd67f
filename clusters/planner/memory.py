"""Bytes on one accelerator at the peak of a step, by part, and the smallest change that makes a step fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from clusters.planner.machines import Accelerators
from clusters.planner.states import (
    StateBytes,
    Strategy,
    full_precision_states,
    mixed_precision_states,
    zero_full_precision_states,
)
from orchestrator.cost import CostFacts, PartCost

_FULL, _HALF = 4, 2  # bytes of a value in fp32 and bf16
_BY_ITSELF = ", which running out of memory makes by itself"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a training is spread over accelerators. Execution: none of it changes what is learned."""

    strategy: Strategy
    workers: int
    shards: int  # accelerators that share one copy of the states; the copies are replicas
    micro_items: int  # items that one pass over the model takes
    recompute: bool
    sequence_workers: int = 1  # accelerators that share each item

    def __post_init__(self) -> None:
        if self.workers < 1 or self.shards < 1 or self.workers % self.shards:
            raise ValueError(f"layout: {self.shards} shards do not divide {self.workers} workers")


@dataclass(frozen=True, kw_only=True)
class MemoryParts:
    """Bytes on one accelerator at the end of the backward pass, its worst moment."""

    weights: float
    gradients: float
    optimizer: float
    live_units: float  # gathered units, or copies cast for computing
    activations: float
    scores: float  # temporary, beside the activations
    inputs: float
    buffers: float  # whole gradients, until they are reduced

    @property
    def total(self) -> float:
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.live_units
            + self.activations
            + self.scores
            + self.inputs
            + self.buffers
        )


FactsFor = Callable[[Layout], CostFacts]


def memory(facts: CostFacts, layout: Layout) -> MemoryParts:
    """At the end of the backward pass; a fused optimizer's step needs no more."""
    frozen = facts.parameters - facts.trained_parameters
    sharded = layout.strategy == "fsdp2"
    states = _sharded_states(facts, layout, frozen) if sharded else _whole_states(facts, layout, frozen)
    return MemoryParts(
        weights=states.weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        live_units=states.live_units,
        activations=_activations(facts, layout),
        scores=facts.temporary_bytes,
        inputs=facts.input_bytes * layout.micro_items,
        buffers=_FULL * sum(part.trained_parameters for part in _root(facts)) if sharded else 0.0,
    )


def _whole_states(facts: CostFacts, layout: Layout, frozen: int) -> StateBytes:
    """Weights in fp32, replicated but for those of units in ZeRO-3."""
    autocast = facts.precision == "bf16"
    if layout.strategy == "ddp":
        halved = _halved(facts.parts)
        return full_precision_states(
            facts.trained_parameters,
            frozen=frozen - halved,
            halved=halved,
            autocast=autocast,
            moment_bytes=facts.moment_bytes,
        )
    return zero_full_precision_states(
        layout.strategy,
        facts.trained_parameters,
        frozen=frozen,
        shards=layout.shards,
        units=facts.parameters - sum(part.parameters for part in _root(facts)),
        largest_unit=_largest(facts),
        autocast=autocast,
    )


def _sharded_states(facts: CostFacts, layout: Layout, frozen: int) -> StateBytes:
    """Everything in fp32 shards but frozen matrices. What is no unit is gathered once, units one by one in bf16."""
    states = mixed_precision_states(
        "fsdp2", facts.trained_parameters, shards=layout.shards, largest_unit=_largest(facts)
    )
    root, saved_bytes = _root(facts), _FULL - _HALF
    moments = 2 * (_FULL - facts.moment_bytes) * facts.trained_parameters
    return replace(
        states,
        weights=states.weights + (_FULL * frozen - saved_bytes * _halved(facts.parts)) / layout.shards,
        optimizer=states.optimizer - moments / layout.shards,
        live_units=states.live_units + _FULL * sum(part.parameters for part in root) - saved_bytes * _halved(root),
    )


def _halved(parts: Sequence[PartCost]) -> int:
    """Frozen parameters that are kept in bf16."""
    return sum(part.parameters - part.trained_parameters for part in parts if part.frozen_bytes == _HALF)


def _root(facts: CostFacts) -> list[PartCost]:
    """The parts that are gathered as a whole."""
    return [part for part in facts.parts if not part.largest_unit or part.largest_unit >= part.parameters]


def _largest(facts: CostFacts) -> int:
    """Parameters of the largest unit."""
    return max((part.largest_unit for part in facts.parts if part.largest_unit < part.parameters), default=0)


def _activations(facts: CostFacts, layout: Layout) -> float:
    kept, live = 0.0, 0.0
    for part in facts.parts:
        if layout.recompute and part.recomputed_bytes:
            kept += part.recomputed_bytes
            live = max(live, part.unit_bytes)
        else:
            kept += part.saved_bytes
    return (kept + live) * layout.micro_items


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a layout fits, and if it does not, the smallest change that does; None: no change of ours does."""

    parts: MemoryParts
    usable: float
    layout: Layout
    change: Layout | None = None
    change_text: str = ""

    @property
    def fits(self) -> bool:
        return self.parts.total <= self.usable

    @property
    def works(self) -> bool:
        """Whether it runs as it is asked for: smaller micro-batches are made by themselves."""
        return self.fits or (
            self.change is not None and replace(self.change, micro_items=self.layout.micro_items) == self.layout
        )


def judge(facts_for: FactsFor, layout: Layout, machine: Accelerators, strategies: Sequence[Strategy]) -> Verdict:
    """Tries, in this order: recomputation, smaller micro-batches, sharding over a node, over all, both together, and
    all of these with items that several accelerators share.
    """
    parts = memory(facts_for(layout), layout)
    if parts.total <= machine.usable_bytes:
        return Verdict(parts=parts, usable=machine.usable_bytes, layout=layout)
    for candidate, text in _changes(layout, facts_for(layout), machine, strategies):
        if memory(facts_for(candidate), candidate).total <= machine.usable_bytes:
            return Verdict(parts=parts, usable=machine.usable_bytes, layout=layout, change=candidate, change_text=text)
    return Verdict(parts=parts, usable=machine.usable_bytes, layout=layout)


def _changes(
    layout: Layout, facts: CostFacts, machine: Accelerators, strategies: Sequence[Strategy]
) -> Iterator[tuple[Layout, str]]:
    """Candidates from the smallest change to the largest."""
    whole = list(_changes_of_whole_items(layout, facts, machine, strategies))
    yield from whole
    for count in facts.sharers:
        if count > layout.sequence_workers and layout.workers % count == 0:
            for base, text in [(layout, ""), *whole]:
                yield replace(base, sequence_workers=count), _joined(f"sequence_workers: {count}", text)


def _changes_of_whole_items(
    layout: Layout, facts: CostFacts, machine: Accelerators, strategies: Sequence[Strategy]
) -> Iterator[tuple[Layout, str]]:
    can_recompute = any(part.recomputed_bytes for part in facts.parts) and not layout.recompute
    recompute = [(layout, "")]
    if can_recompute:
        recompute.append((replace(layout, recompute=True), "checkpoint_activations: true"))
    micro = sorted({items for items in range(1, layout.micro_items) if layout.micro_items % items == 0}, reverse=True)
    small = [(base, text) for base, text in recompute if text]
    small += [
        (
            replace(base, micro_items=items),
            _joined(text, f"micro-batches of {items}, which running out of memory makes by itself"),
        )
        for base, text in recompute
        for items in micro
    ]
    yield from small
    for strategy in strategies:
        if strategy in ("ddp", layout.strategy):
            continue
        for shards in _shard_counts(layout.workers, machine.per_node):
            mesh = f", shard_workers: {shards}" if shards < layout.workers else ""
            for base, text in [(layout, ""), *small]:
                sharded = replace(base, strategy=strategy, shards=shards)
                yield sharded, _joined(f"strategy: {strategy}{mesh}", text)


def _shard_counts(workers: int, per_node: int) -> list[int]:
    """Inside a node first, then over more and more of all workers."""
    counts = [count for count in range(2, workers + 1) if workers % count == 0]
    inside = [count for count in counts if count == per_node]
    return inside + [count for count in counts if count > max(inside, default=0)]


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)
