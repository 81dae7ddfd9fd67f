"""Bytes on one accelerator at the peak of a step, by part, and the smallest change that makes a step fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from clusters.planner.machines import Accelerators
from clusters.planner.states import StateBytes, Strategy, full_precision_states, mixed_precision_states
from orchestrator.cost import CostFacts

_FULL = 4


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a training is spread over accelerators. Execution: none of it changes what is learned."""

    strategy: Strategy
    workers: int
    shards: int  # accelerators that share one copy of the states; the copies are replicas
    micro_items: int  # items that one pass over the model takes
    recompute: bool

    def __post_init__(self) -> None:
        if self.workers < 1 or self.shards < 1 or self.workers % self.shards:
            raise ValueError(f"layout: {self.shards} shards do not divide {self.workers} workers")


@dataclass(frozen=True, kw_only=True)
class MemoryParts:
    """Bytes on one accelerator at its worst moment."""

    weights: float
    gradients: float
    optimizer: float
    live_units: float  # gathered units, or copies cast for computing
    activations: float
    scores: float  # temporary, beside the activations
    inputs: float
    buffers: float  # of communication, and temporaries of the optimizer's step
    worst: str  # "backward pass" or "optimizer step"

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
    """The larger of two moments: the end of the backward pass, and the step of the optimizer."""
    trained, frozen = facts.trained_parameters, facts.parameters - facts.trained_parameters
    states = _states(facts, layout, trained, frozen)
    buckets = _FULL * trained if layout.strategy == "ddp" and layout.workers > 1 else 0.0
    backward = MemoryParts(
        weights=states.weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        live_units=states.live_units,
        activations=_activations(facts, layout),
        scores=facts.temporary_bytes,
        inputs=facts.input_bytes * layout.micro_items,
        buffers=buckets,
        worst="backward pass",
    )
    temporaries = _FULL * trained / (1 if layout.strategy == "ddp" else layout.shards)
    step = replace(
        backward, live_units=0.0, activations=0.0, scores=0.0, buffers=buckets + temporaries, worst="optimizer step"
    )
    return max(backward, step, key=lambda parts: parts.total)


def _states(facts: CostFacts, layout: Layout, trained: int, frozen: int) -> StateBytes:
    if layout.strategy == "ddp":
        return full_precision_states(trained, frozen=frozen, autocast=facts.precision == "bf16")
    largest = max((part.largest_unit for part in facts.parts if part.training_passes > 1), default=0)
    return mixed_precision_states(layout.strategy, trained, shards=layout.shards, largest_unit=largest, frozen=frozen)


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


def judge(facts_for: FactsFor, layout: Layout, machine: Accelerators, strategies: Sequence[Strategy]) -> Verdict:
    """Tries, in this order: recomputation, smaller micro-batches, sharding over a node, over all, and both together."""
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
    can_recompute = any(part.recomputed_bytes for part in facts.parts) and not layout.recompute
    recompute = [(layout, "")]
    if can_recompute:
        recompute.append((replace(layout, recompute=True), "recompute activations"))
    micro = sorted({items for items in range(1, layout.micro_items) if layout.micro_items % items == 0}, reverse=True)
    small = [(base, text) for base, text in recompute if text]
    small += [
        (replace(base, micro_items=items), _joined(text, f"micro-batches of {items}"))
        for base, text in recompute
        for items in micro
    ]
    yield from small
    for strategy in strategies:
        if strategy in ("ddp", layout.strategy):
            continue
        for shards in _shard_counts(layout.workers, machine.per_node):
            where = "inside each node" if 1 < shards == machine.per_node < layout.workers else f"over {shards}"
            for base, text in [(layout, ""), *small]:
                sharded = replace(base, strategy=strategy, shards=shards)
                yield sharded, _joined(f"strategy {strategy}, sharded {where}", text)


def _shard_counts(workers: int, per_node: int) -> list[int]:
    """Inside a node first, then over more and more of all workers."""
    counts = [count for count in range(2, workers + 1) if workers % count == 0]
    inside = [count for count in counts if count == per_node]
    return inside + [count for count in counts if count > max(inside, default=0)]


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)
