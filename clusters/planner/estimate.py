"""The estimate of one training stage on one machine type: fit, time, accelerator hours, money and bytes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from clusters.planner.intervals import FailureModel, daly_s, waste_share
from clusters.planner.machines import Accelerators, MachineType, accelerators
from clusters.planner.measured import MeasuredTraining
from clusters.planner.memory import FactsFor, Layout, Verdict, judge
from clusters.planner.prices import Money, Prices, money
from clusters.planner.states import ZERO, Strategy
from clusters.planner.timing import PeakShares, StepTime, micro_batches_of_worker, step_time
from orchestrator.cost import CostFacts

_CHECKPOINT_BYTES = 12  # of each trained parameter: fp32 weights and both moments


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What neither recipe nor machine says; each has a flag of `illume estimate`."""

    peak_shares: PeakShares = field(default_factory=PeakShares)
    failures: FailureModel = field(default_factory=FailureModel)
    checkpoint_gbs: float = 1.0  # that one writer brings to the store, GB/s

    def __post_init__(self) -> None:
        if self.checkpoint_gbs <= 0:
            raise ValueError(f"checkpoint_gbs: {self.checkpoint_gbs}, expected above 0")


@dataclass(frozen=True, kw_only=True)
class Range:
    low: float
    expected: float
    high: float


@dataclass(frozen=True, kw_only=True)
class CheckpointPlan:
    bytes: float
    write_s: float  # that it holds training up
    interval_s: float  # by Daly
    waste_share: float  # of the time: writing, work done again, restarts


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """Times are seconds on the wall, of the layout that is asked for or, if that does not fit, of the change."""

    machine: str  # name of the machine type
    device: str
    verdict: Verdict
    layout: Layout  # that is timed
    facts: CostFacts
    step: StepTime
    checkpoint: CheckpointPlan
    wall_s: Range
    gpu_hours: Range
    cost: Money | None
    notes: tuple[str, ...]
    is_measured: bool  # the seconds of its step come from real runs

    @property
    def possible(self) -> bool:
        return self.verdict.fits or self.verdict.change is not None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a stage asks for."""

    strategy: Strategy
    strategies: Sequence[Strategy]  # that its kind can be carried out with
    workers: int
    shards: int  # workers that share one copy, where the strategy shards; 0: all
    cpus_per_worker: float
    recompute: bool
    sequence_workers: int = 1  # workers that share each item
    measured: MeasuredTraining | None = None  # by real runs; replaces what is assumed


def estimate_training(
    facts_for: FactsFor,
    request: Request,
    name: str,
    machine: MachineType,
    prices: Prices,
    assumptions: Assumptions,
) -> TrainingEstimate:
    """Raises: RecipeError: nobody knows the accelerator of this machine type."""
    chips = accelerators(machine)
    workers, notes = _workers(request.workers, chips)
    layout = Layout(
        strategy=request.strategy,
        workers=workers,
        shards=_shards(request, workers),
        micro_items=1,
        recompute=request.recompute,
        sequence_workers=request.sequence_workers,
    )
    layout = replace(layout, micro_items=facts_for(layout).items_per_micro_batch)
    verdict = judge(facts_for, layout, chips, request.strategies)
    timed = verdict.change or layout
    facts = facts_for(timed)
    is_measured = _is_measured(request, timed, chips)
    times = _step_times(facts, timed, chips, request, assumptions)
    failures = assumptions.failures
    if machine.spot:
        failures = replace(failures, preemptions_per_day=failures.preemptions_per_day + machine.preemptions_per_day)
    stall_s = request.measured.stall_s if request.measured else None
    checkpoint = _checkpoints(facts, timed, failures, assumptions, stall_s)
    wall = Range(
        **{name: facts.steps * step.total_s / max(1e-9, 1 - checkpoint.waste_share) for name, step in times.items()}
    )
    hours = Range(
        low=wall.low * workers / 3600, expected=wall.expected * workers / 3600, high=wall.high * workers / 3600
    )
    return TrainingEstimate(
        machine=name,
        device=chips.name,
        verdict=verdict,
        layout=timed,
        facts=facts,
        step=times["expected"],
        checkpoint=checkpoint,
        wall_s=wall,
        gpu_hours=hours,
        cost=_money(prices, machine, hours),
        notes=notes,
        is_measured=is_measured,
    )


def cheapest(estimates: Sequence[TrainingEstimate]) -> TrainingEstimate | None:
    """The one that works for the least money; where a price is unknown, for the fewest accelerator hours."""
    possible = [estimate for estimate in estimates if estimate.possible]
    priced = all(estimate.cost is not None for estimate in possible)
    return min(
        possible,
        key=lambda estimate: (
            (estimate.cost.low + estimate.cost.high) / 2 if priced and estimate.cost else estimate.gpu_hours.expected
        ),
        default=None,
    )


def _workers(wanted: int, chips: Accelerators) -> tuple[int, tuple[str, ...]]:
    if wanted <= chips.total:
        return wanted, ()
    note = f"asks for {wanted} workers; these machines have {chips.total} accelerators, and are estimated with them"
    return chips.total, (note,)


def _shards(request: Request, workers: int) -> int:
    """Of the layout that is asked for; with fewer workers than asked for, the largest number that divides them."""
    if request.strategy == "ddp":
        return 1
    wanted = request.shards or workers
    return max(count for count in range(1, workers + 1) if workers % count == 0 and count <= wanted)


def _step_times(
    facts: CostFacts, layout: Layout, chips: Accelerators, request: Request, assumptions: Assumptions
) -> Mapping[str, StepTime]:
    """By the end of the range: `low` is the shortest time, at the highest share of the peak."""
    if request.measured is not None and _is_measured(request, layout, chips):
        flops = facts.training_flops * micro_batches_of_worker(facts, layout) * layout.micro_items
        return {
            name: StepTime(compute_s=flops / speed, communication_s=0.0, exposed_s=0.0, data_s=0.0)
            for name, speed in zip(("high", "expected", "low"), request.measured.flops_per_s, strict=True)
        }
    shares = assumptions.peak_shares
    ends = {"low": shares.high, "expected": shares.expected, "high": shares.low}
    return {
        name: step_time(facts, layout, chips, peak_share=share, cpus_per_worker=request.cpus_per_worker)
        for name, share in ends.items()
    }


def _is_measured(request: Request, layout: Layout, chips: Accelerators) -> bool:
    strategy = "deepspeed" if layout.strategy in ZERO else layout.strategy
    found = request.measured
    return found is not None and (found.device, found.strategy) == (chips.name, strategy)


def _checkpoints(
    facts: CostFacts, layout: Layout, failures: FailureModel, assumptions: Assumptions, stall_s: float | None
) -> CheckpointPlan:
    """`stall_s`: that a checkpoint was measured to hold training up; None: all of its writing is assumed to."""
    size = float(facts.trained_parameters * _CHECKPOINT_BYTES)
    writers = 1 if layout.strategy == "ddp" else layout.shards
    write_s = size / (writers * assumptions.checkpoint_gbs * 1e9) if stall_s is None else stall_s
    mean = failures.mean_between_s(layout.workers)
    if math.isinf(mean):
        return CheckpointPlan(bytes=size, write_s=write_s, interval_s=math.inf, waste_share=0.0)
    interval = daly_s(write_s, mean)
    waste = waste_share(interval, write_s=write_s, restart_s=failures.restart_s, mean_between_s=mean)
    return CheckpointPlan(bytes=size, write_s=write_s, interval_s=interval, waste_share=min(waste, 0.99))


def _money(prices: Prices, machine: MachineType, hours: Range) -> Money | None:
    low, high = money(prices, machine, hours.low), money(prices, machine, hours.high)
    return None if low is None or high is None else Money(low=low.low, high=high.high, currency=low.currency)
