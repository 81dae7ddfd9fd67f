"""Trains a program on a group of workers and returns the committed checkpoint of the last step.

Ray Train starts the workers, or for a local profile that asks for it this process does. Checkpoints are committed in
the store, and a failed group ends the attempt, so that one policy decides about retries.
"""

import logging
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from orchestrator.errors import CancelledError, HangError, NodeLostError
from orchestrator.stage import Checkpoint, StageContext
from stages.training.checkpoints.progress import PROGRESS_FILE
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.program import ProgramClass, Task, weight_unit_of
from stages.training.spreads import SPREADS, spreads_of, spreads_to_json
from stages.training.step_line import LinePace, step_figures, step_line
from stages.training.strategies.mesh import check_strategy
from stages.training.workers.reports import Report
from stages.training.workers.worker import WorkerSettings, worker_settings

logger = logging.getLogger(__name__)

POLL_S = 0.5  # between two polls of the worker reports by the driver


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    checkpoint: Checkpoint  # of the last step
    metrics: dict[str, float]  # the newest of each in this attempt; empty if it made no step


class WorkerGroup(Protocol):
    """The running workers of one attempt; making it starts them."""

    def wait(self, timeout_s: float) -> bool:
        """Whether the group has ended, within the timeout."""

    def collect(self, stop: bool) -> Report | None:
        """Take what the workers reported, and pass a stop request on. None: it cannot be had now."""

    def kill(self, node_id: str, pid: int) -> str:
        """Kill a hung worker. Returns its stacks, or why there are none."""

    def waiting_for(self) -> str:
        """What its workers wait for before they can start; empty if for nothing."""

    def error(self) -> BaseException | None:
        """What ended the group, once it has ended; None if every worker ended well."""

    def explain(self, error: BaseException, processes: Mapping[int, tuple[str, int]]) -> Exception:
        """Why it ended with `error`, for those who decide about retries. `processes`: rank -> node id, process id."""

    def close(self) -> None: ...


def train(program_class: ProgramClass[Task], task: Task, loop: LoopConfig, context: StageContext) -> TrainingResult:
    """Train to the last step, continuing from the newest committed checkpoint of this stage.

    Each worker builds `program_class(task, device)`, so the class must be at the top level of an importable module.

    Raises: CancelledError after a clean stop; NodeLostError if a worker died; HangError if no step ended for
    `retry.hang_after_s`; the OrchestratorError of a worker; RuntimeError with the worker's traceback otherwise.
    """
    check_strategy(context.execution(TrainingExecution), context.resources)
    context.checkpoints.take_over()
    latest = context.checkpoints.latest()
    metrics: dict[str, float] = {}
    if latest is None or latest.step < loop.steps:
        with closing(_start_group(worker_settings(program_class, task, loop, context), context)) as group:
            metrics = run_group(group, loop, context, unit=weight_unit_of(program_class))
        latest = context.checkpoints.latest()
    if latest is None or latest.step < loop.steps:
        if context.stop_requested():
            raise CancelledError(f"{context.stage_id}: stopped at step {latest.step if latest else 0} of {loop.steps}")
        raise NodeLostError(f"{context.stage_id}: the workers ended before step {loop.steps} without an error")
    context.record_provenance({SPREADS: spreads_to_json(spreads_of(latest))})
    shutil.copyfile(latest.path / PROGRESS_FILE, context.output / PROGRESS_FILE)  # read by `illume trace`
    return TrainingResult(checkpoint=latest, metrics=metrics)


def _start_group(settings: WorkerSettings, context: StageContext) -> WorkerGroup:
    if context.plain_training_workers:
        from stages.training.workers.process_group import ProcessGroup

        return ProcessGroup(settings, context)
    from stages.training.workers.ray_train_group import RayTrainGroup  # late: needs Ray

    return RayTrainGroup(settings, context)


def run_group(group: WorkerGroup, loop: LoopConfig, context: StageContext, *, unit: str = "images") -> dict[str, float]:
    """Follow the workers until they end. Returns the newest value of each metric. Raises: see `train`.

    `unit`: of the weight of a micro-batch, for the log.
    """
    monitor = _GroupMonitor(group, loop, context, unit)
    while not group.wait(POLL_S):
        monitor.poll()
    monitor.poll()
    error = group.error()
    if monitor.hung is not None:
        raise HangError(monitor.hung) from error
    if error is not None:
        raise monitor.error or group.explain(error, monitor.processes) from error
    return monitor.metrics


class _GroupMonitor:
    """Polls the worker reports, passes metrics and progress on, and kills a worker group that makes no progress."""

    def __init__(self, group: WorkerGroup, loop: LoopConfig, context: StageContext, unit: str) -> None:
        self._group, self._loop, self._context, self._unit = group, loop, context, unit
        self._progressed_at: float | None = None  # None: no worker has started, e.g. while nodes are added
        self._pace = LinePace()
        self.metrics: dict[str, float] = {}
        self.error: Exception | None = None  # the first that a worker raised on purpose
        self.processes: Mapping[int, tuple[str, int]] = {}  # rank -> node id, process id
        self._waits_for = ""  # as it was recorded
        self.hung: str | None = None  # message, once the group was killed for making no progress

    def poll(self) -> None:
        stop = self._context.stop_requested()
        report = self._group.collect(stop)
        if report is None:
            return
        if stop and not report.processes:  # they wait for a node or load a checkpoint, and may do so for hours
            raise CancelledError(f"{self._context.stage_id}: stopped before its workers had started")
        self.error, self.processes = report.error, report.processes
        for step, metrics in report.steps:
            self._progressed_at = time.monotonic()
            if metrics:
                self.metrics = {**self.metrics, **metrics}  # a step without trained data has no losses
                if self._pace.is_due(is_last=step == self._loop.steps):
                    figures = step_figures(step, self._loop.steps, metrics)
                    logger.info("%s: %s", self._context.stage_id, step_line(figures, unit=self._unit))
                self._context.tracker.log_metrics(metrics, step=step)
            self._context.tracker.progress(step, self._loop.steps, "steps")
        if self._progressed_at is None and not report.processes:
            self._note_wait(self._group.waiting_for())
            return
        self._note_wait("")
        self._progressed_at = self._progressed_at or time.monotonic()
        idle_s = time.monotonic() - self._progressed_at
        if self.hung is None and idle_s > self._context.retry.hang_after_s:
            self._kill_hung_group(idle_s)

    def _note_wait(self, text: str) -> None:
        """Record once what the workers wait for, and once that they wait no more."""
        if bool(text) != bool(self._waits_for):
            self._context.tracker.log_event("waiting" if text else "waited", {"for": text or self._waits_for})
        self._waits_for = text

    def _kill_hung_group(self, idle_s: float) -> None:
        stage = self._context.stage_id
        self.hung = (
            f"{stage}: no training step ended for {idle_s:.0f} s; the workers were killed, their stacks are logged"
        )
        for rank, (node_id, pid) in sorted(self.processes.items()):
            logger.error("%s: stacks of hung worker %d:\n%s", stage, rank, self._group.kill(node_id, pid))
