"""Trains a program on a group of workers and returns the committed checkpoint of the last step.

Ray Train starts the workers, or for a local profile that asks for it this process does. Checkpoints are committed in
the store, and a failed group ends the attempt, so that one policy decides about retries.
"""

import shutil
from contextlib import closing, nullcontext
from dataclasses import dataclass

from orchestrator.errors import CancelledError, HangError, NodeLostError, PreemptedError
from orchestrator.stage import Checkpoint, StageContext
from stages.training.beside.validations import ValidationsBeside, start_side_run
from stages.training.checkpoints.progress import PROGRESS_FILE
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.group_monitor import GroupMonitor
from stages.training.program import ProgramClass, Task, weight_unit_of
from stages.training.spreads import SPREADS, spreads_of, spreads_to_json
from stages.training.strategies.prechecks import check_strategy
from stages.training.watching.timeouts import is_collective_timeout
from stages.training.workers.group import WorkerGroup
from stages.training.workers.worker import WorkerSettings, worker_settings

POLL_S = 0.5  # between two polls of the worker reports by the driver


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    checkpoint: Checkpoint  # of the last step
    metrics: dict[str, float]  # the newest of each in this attempt; empty if it made no step


def train(program_class: ProgramClass[Task], task: Task, loop: LoopConfig, context: StageContext) -> TrainingResult:
    """Train to the last step, continuing from the newest committed checkpoint of this stage.

    Each worker builds `program_class(task, device)`, so the class must be at the top level of an importable module.

    Raises: CancelledError after a clean stop; PreemptedError if nodes are taken away; NodeLostError if a worker died;
    HangError if no step ended for
    `retry.hang_after_s`; the OrchestratorError of a worker; RuntimeError with the worker's traceback otherwise.
    """
    check_strategy(context.execution(TrainingExecution), context.resources, program_class, loop.optimizer)
    context.checkpoints.take_over()
    latest = context.checkpoints.latest()
    metrics: dict[str, float] = {}
    if latest is None or latest.step < loop.steps:
        settings = worker_settings(program_class, task, loop, context)
        beside = ValidationsBeside(settings, context, start_side_run(context)) if _validates_beside(settings) else None
        with closing(beside) if beside else nullcontext():
            with closing(_start_group(settings, context)) as group:
                metrics = run_group(group, loop, context, unit=weight_unit_of(program_class), beside=beside)
            latest = context.checkpoints.latest()
            if beside and latest is not None and latest.step == loop.steps:
                metrics |= beside.finish(latest.step)
    if latest is None or latest.step < loop.steps:
        if context.stop_requested():
            raise CancelledError(f"{context.stage_id}: stopped at step {latest.step if latest else 0} of {loop.steps}")
        raise NodeLostError(f"{context.stage_id}: the workers ended before step {loop.steps} without an error")
    context.record_provenance({SPREADS: spreads_to_json(spreads_of(latest))})
    shutil.copyfile(latest.path / PROGRESS_FILE, context.output / PROGRESS_FILE)  # read by `illume trace`
    return TrainingResult(checkpoint=latest, metrics=metrics)


def _validates_beside(settings: WorkerSettings) -> bool:
    return settings.execution.watch.validate_beside


def _start_group(settings: WorkerSettings, context: StageContext) -> WorkerGroup:
    if context.plain_training_workers:
        from stages.training.workers.process_group import ProcessGroup

        return ProcessGroup(settings, context)
    from stages.training.workers.ray_train_group import RayTrainGroup  # late: needs Ray

    return RayTrainGroup(settings, context)


def run_group(
    group: WorkerGroup,
    loop: LoopConfig,
    context: StageContext,
    *,
    unit: str = "images",
    beside: ValidationsBeside | None = None,
) -> dict[str, float]:
    """Follow the workers until they end. Returns the newest value of each metric. Raises: see `train`.

    `unit`: of the weight of a micro-batch, for the log. `beside`: is told of checkpoints.
    """
    monitor = GroupMonitor(group, loop, context, unit, beside=beside)
    while not group.wait(POLL_S):
        monitor.poll()
    monitor.poll()
    error = group.error()
    if monitor.hung is not None:
        raise HangError(monitor.hung) from error
    if monitor.findings.preempted and not context.stop_requested():  # the other errors are consequences
        raise PreemptedError(f"{context.stage_id}: {monitor.findings.preempted}") from error
    if error is not None:
        explained = monitor.error or group.explain(error, monitor.processes)
        if monitor.suspected and is_collective_timeout(str(explained)):
            raise HangError(f"{context.stage_id}: a collective operation gave up: {monitor.suspected}") from error
        raise explained from error
    return monitor.metrics
