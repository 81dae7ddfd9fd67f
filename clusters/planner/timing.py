"""Seconds of a step: computing, communication that computing does not hide, and data.

Computing assumes a share of the dense bf16 peak, counting recomputed FLOPs as work that has to be done. Sources of the
shares: published training logs of dense models of 3B to 13B on 128 to 512 H100 (36 to 46 % without recomputation);
with images, padding and decoding 25 to 35 %.
"""

import math
from dataclasses import dataclass

from clusters.planner.machines import Accelerators
from clusters.planner.memory import Layout
from orchestrator.cost import CostFacts

_BUS_EFFICIENCY = 0.8  # of the link, that collectives reach
_OVERLAP = 0.7  # of the computing time, behind which communication can hide
_HALF, _FULL = 2, 4


@dataclass(frozen=True, kw_only=True)
class PeakShares:
    """Shares of the peak that computing is assumed to reach: pessimistic, expected, optimistic."""

    low: float = 0.25
    expected: float = 0.35
    high: float = 0.45

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.expected <= self.high <= 1:
            raise ValueError(f"peak shares: {self}; expected 0 < low <= expected <= high <= 1")


@dataclass(frozen=True, kw_only=True)
class StepTime:
    compute_s: float
    communication_s: float  # all of it
    exposed_s: float  # what computing does not hide
    data_s: float  # to make the items of a step, on the CPUs of one worker; 0: not known

    @property
    def total_s(self) -> float:
        return max(self.compute_s + self.exposed_s, self.data_s)


def step_time(
    facts: CostFacts, layout: Layout, machine: Accelerators, *, peak_share: float, cpus_per_worker: float
) -> StepTime:
    items = micro_batches_of_worker(facts, layout) * layout.micro_items
    flops = facts.training_flops + (facts.recomputed_flops if layout.recompute else 0.0)
    peak = machine.peak_flops if facts.precision == "bf16" else machine.peak_flops / 2
    compute = items * flops / (peak * peak_share)
    communication = communication_s(facts, layout, machine)
    return StepTime(
        compute_s=compute,
        communication_s=communication,
        exposed_s=max(0.0, communication - _OVERLAP * compute),
        data_s=items * facts.cpu_seconds / max(1.0, cpus_per_worker),
    )


def micro_batches_of_worker(facts: CostFacts, layout: Layout) -> int:
    """Passes of the busiest worker in a step; the others wait for it."""
    return math.ceil(facts.items_per_step / layout.micro_items / layout.workers)


def communication_s(facts: CostFacts, layout: Layout, machine: Accelerators) -> float:
    """Of one step: gradients once; for sharded weights also two gathers and one scatter of each micro-batch."""
    shards, replicas = layout.shards, layout.workers // layout.shards
    if layout.strategy in ("ddp", "zero1", "zero2"):
        width = _FULL if layout.strategy == "ddp" else _HALF
        return _ring(facts.trained_parameters * width, layout.workers, machine) * 2
    micro = micro_batches_of_worker(facts, layout)
    inside = 3 * _ring(facts.trained_parameters * _HALF, shards, machine) * micro
    across = 2 * _ring(facts.trained_parameters * _FULL / shards, replicas, machine, spread=True)
    return inside + across


def _ring(data: float, members: int, machine: Accelerators, *, spread: bool = False) -> float:
    """One pass around a ring of that many members; inside a node over its link unless they are spread over nodes."""
    if members < 2:
        return 0.0
    inside = members <= machine.per_node and not spread
    speed = (machine.link_bytes_s if inside else machine.network_bytes_s) * _BUS_EFFICIENCY
    return (members - 1) / members * data / speed
