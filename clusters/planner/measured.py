"""What real runs of a training measured, which replaces what the planner assumes.

Use of the peak is taken over whole steps, waiting for data and communication included. It counts on the accelerator on
which it was measured, and for the same strategy; how long a checkpoint holds training up counts everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from orchestrator.devices import find_device
from orchestrator.errors import RecipeError
from orchestrator.history.database.database import Database
from orchestrator.history.measured import MeasuredAttempt, measured_attempts
from orchestrator.planning.plan import Plan, PlannedStage

PEAK_SHARE, STALL = "mfu", "checkpoint_stall_s"  # metrics of a training
LAYOUT = "training_layout"  # its event: {"workers", "strategy", "device", "peak_tflops": of one worker's device}


@dataclass(frozen=True, kw_only=True)
class MeasuredTraining:
    """Of the newest attempts at one stage on one kind of accelerator."""

    device: str  # as the table of devices calls it
    strategy: str  # ddp, fsdp2 or deepspeed
    workers: int  # of the newest attempt
    run_id: str  # of the newest attempt
    attempts: int
    flops_per_s: tuple[float, float, float]  # of the model on one accelerator: lowest, median, highest attempt
    stall_s: float | None  # None: no checkpoint was written


Measured = Callable[[PlannedStage], MeasuredTraining | None]


def nothing_measured(_stage: PlannedStage) -> MeasuredTraining | None:
    return None


def measured_in(database: Database, plan: Plan) -> Measured:
    """The history of a stage, from the attempts of all runs of its recipe."""

    def measured(stage: PlannedStage) -> MeasuredTraining | None:
        found = measured_attempts(
            database,
            recipe=plan.recipe,
            stage_id=stage.id,
            stage_kind=stage.spec.kind.name,
            names=(PEAK_SHARE, STALL),
            event=LAYOUT,
        )
        return of_attempts([attempt for attempt in found if PEAK_SHARE in attempt.metrics])

    return measured


def of_attempts(attempts: list[MeasuredAttempt]) -> MeasuredTraining | None:
    """`attempts`: newest first; those on another accelerator or with another strategy than the newest do not count."""
    if not attempts:
        return None
    newest = attempts[0].fields
    alike = [found for found in attempts if _layout(found) == _layout(attempts[0])]
    peak = float(str(newest.get("peak_tflops") or 0.0)) * 1e12
    speeds = sorted(found.metrics[PEAK_SHARE] * peak for found in alike)
    if not peak or speeds[0] <= 0:
        return None
    stalls = [found.metrics[STALL] for found in alike if STALL in found.metrics]
    return MeasuredTraining(
        device=_canonical(str(newest.get("device"))),
        strategy=str(newest.get("strategy")),
        workers=int(str(newest.get("workers"))),
        run_id=attempts[0].run_id,
        attempts=len(alike),
        flops_per_s=(speeds[0], median(speeds), speeds[-1]),
        stall_s=median(stalls) if stalls else None,
    )


def _layout(attempt: MeasuredAttempt) -> tuple[object, ...]:
    return tuple(attempt.fields.get(name) for name in ("device", "strategy", "peak_tflops"))


def _canonical(name: str) -> str:
    """By the name that a driver gives it, such as "NVIDIA H100 80GB HBM3"; one that nobody knows stays as it is."""
    try:
        return find_device(name.replace(" ", "-"))[0]
    except RecipeError:
        return name
