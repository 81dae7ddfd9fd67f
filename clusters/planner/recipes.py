"""Estimates of all stages that a plan would run, and the refusal of those that fit no machine."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from clusters.planner.estimate import Assumptions, Request, TrainingEstimate, cheapest, estimate_training
from clusters.planner.machines import MachineType
from clusters.planner.measured import Measured, MeasuredTraining, nothing_measured
from clusters.planner.memory import Layout
from clusters.planner.prices import Prices
from clusters.planner.states import ZERO, Strategy
from orchestrator.cost import ConfigTree, CostFacts, UnknownCostError
from orchestrator.errors import PrecheckError
from orchestrator.planning.plan import Plan, PlannedStage

_GIB = 2**30
_SHARDS = "shard_workers"  # the field that says how many workers share one copy
_SHARED = "sequence_workers"  # the field that says how many workers share each item
_RECOMPUTE = "checkpoint_activations"  # the field of a kind's execution that switches recomputation


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """Of one stage that would run."""

    stage_id: str
    kind: str
    facts: CostFacts | None  # None: no training, or its cost is unknown
    trainings: tuple[TrainingEstimate, ...] = ()  # on each machine type with accelerators
    chosen: TrainingEstimate | None = None  # the cheapest that works
    measured_s: float | None = None  # from real runs of this stage
    measured: MeasuredTraining | None = None  # in real runs of this stage
    unknown: str = ""  # why there is no figure


def estimate_plan(
    plan: Plan,
    machines: Mapping[str, MachineType],
    prices: Prices,
    assumptions: Assumptions,
    measured: Measured = nothing_measured,
) -> list[StageEstimate]:
    """In the order of the plan; what real runs measured replaces what is assumed.

    Raises: RecipeError: a machine type names an accelerator that nobody knows.
    """
    return [_estimate(stage, plan, machines, prices, assumptions, measured) for stage in plan.to_run]


def refuse_what_cannot_fit(plan: Plan, machines: Mapping[str, MachineType], prices: Prices) -> None:
    """Raises: PrecheckError: a training fits no machine type as it is asked for; names the smallest change."""
    if not any(machine.gpus for machine in machines.values()):
        return
    problems = []
    for estimate in estimate_plan(plan, machines, prices, Assumptions()):
        if estimate.trainings and not any(training.verdict.works for training in estimate.trainings):
            problems += [f"  stages.{estimate.stage_id}: {line}" for line in _refusal(estimate)]
    if problems:
        raise PrecheckError("\n".join([f"{plan.file or plan.recipe}: does not fit the machines:", *problems]))


def config_tree(plan: Plan, stage: PlannedStage) -> ConfigTree:
    stages = {planned.id: planned for planned in plan.stages}

    def tree(planned: PlannedStage) -> ConfigTree:
        inputs = {slot: tuple(tree(stages[name]) for name in ids) for slot, ids in planned.spec.inputs.items()}
        return ConfigTree(config=planned.spec.config, inputs=inputs)

    return tree(stage)


def _estimate(
    stage: PlannedStage,
    plan: Plan,
    machines: Mapping[str, MachineType],
    prices: Prices,
    assumptions: Assumptions,
    measured: Measured,
) -> StageEstimate:
    spec = stage.spec
    cost = spec.kind.cost
    if cost is None:
        return StageEstimate(
            stage_id=spec.id,
            kind=spec.kind.name,
            facts=None,
            measured_s=stage.estimate_s,
            unknown="" if stage.estimate_s is not None else "never timed",
        )
    tree, history = config_tree(plan, stage), measured(stage)

    def facts_for(layout: Layout) -> CostFacts:
        is_mesh = layout.strategy == "fsdp2" and layout.shards < layout.workers
        stage_of_zero = ZERO.index(layout.strategy) + 1 if layout.strategy in ZERO else 0
        wanted = {
            _RECOMPUTE: layout.recompute,
            "strategy": "deepspeed" if stage_of_zero else layout.strategy,
            "zero_stage": stage_of_zero,
            "cpu_offload": bool(stage_of_zero and getattr(spec.execution, "cpu_offload", False)),
            _SHARDS: layout.shards if is_mesh else 0,
            _SHARED: layout.sequence_workers,
        }
        known = {field.name for field in fields(spec.execution)}
        return cost(tree, replace(spec.execution, **{name: wanted[name] for name in wanted.keys() & known}))

    try:
        facts = cost(tree, spec.execution)
        trainings = tuple(
            estimate_training(facts_for, replace(_request(stage), measured=history), name, machine, prices, assumptions)
            for name, machine in machines.items()
            if machine.gpus
        )
    except UnknownCostError as error:
        return StageEstimate(
            stage_id=spec.id, kind=spec.kind.name, facts=None, measured_s=stage.estimate_s, unknown=str(error)
        )
    return StageEstimate(
        stage_id=spec.id,
        kind=spec.kind.name,
        facts=facts,
        trainings=trainings,
        chosen=cheapest(trainings),
        measured_s=stage.estimate_s,
        measured=history,
    )


def _request(stage: PlannedStage) -> Request:
    execution, resources = stage.spec.execution, stage.spec.resources
    strategies = strategies_of(type(execution))
    strategy = getattr(execution, "strategy", strategies[0])
    return Request(
        strategy=ZERO[int(getattr(execution, "zero_stage", 1)) - 1] if strategy == "deepspeed" else strategy,
        strategies=strategies,
        workers=resources.workers,
        shards=int(getattr(execution, _SHARDS, 0)),
        cpus_per_worker=resources.cpus,
        recompute=bool(getattr(execution, _RECOMPUTE, False)),
        sequence_workers=int(getattr(execution, _SHARED, 1)),
    )


def strategies_of(execution: type) -> Sequence[Strategy]:
    """Those that a kind's execution allows, in the order in which it names them."""
    hints = typing.get_type_hints(execution)
    known = typing.get_args(Strategy)
    return tuple(name for name in typing.get_args(hints.get("strategy")) if name in known) or ("ddp",)


def _refusal(estimate: StageEstimate) -> list[str]:
    lines = []
    for training in estimate.trainings:
        verdict = training.verdict
        found = f"needs {verdict.parts.total / _GIB:.1f} GiB on each {training.device} ({training.machine})"
        usable = f"of which {verdict.usable / _GIB:.1f} GiB are usable"
        change = f"; fits with {verdict.change_text}" if verdict.change else "; no change of its execution fits"
        lines.append(f"{found}, {usable}{change}")
    return lines
