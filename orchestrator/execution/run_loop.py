"""Runs a plan: starts each stage in its own thread once its inputs exist and it is admitted (`admission.py`).

A failed stage blocks only the stages that need its output.
"""

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.artifact import JSON, Artifact
from orchestrator.errors import (
    CancelledError,
    DatabaseError,
    DetachedError,
    InfrastructureFailedError,
    LeaseLostError,
    NothingRanError,
    OrchestratorError,
    StageFailedError,
    StoppedError,
)
from orchestrator.execution.stage_run import DRIVER_ERRORS, PermanentStageError, RunTools, StageRun
from orchestrator.failures.failure_class import INFRASTRUCTURE, FailureClass
from orchestrator.history.events import EventKind, RunState
from orchestrator.planning.plan import Plan, PlannedStage, upstream_ids

log = logging.getLogger(__name__)

POLL_S = 0.5  # between two checks for a stop
CANCEL_POLL_S = 1.0  # between two reads of the cancel request from the database
STOP_TIMEOUT_S = 20.0  # how long a driver that lost its lease waits for its stages to stop


@dataclass(kw_only=True)
class _Progress:
    """The stages of a run by their state."""

    waiting: dict[str, PlannedStage]
    running: dict[str, PlannedStage] = field(default_factory=dict)
    done: dict[str, Artifact | None] = field(default_factory=dict)  # None: reused or skipped, not opened
    failed: dict[str, PermanentStageError] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)


_StageResult = tuple[str, Artifact | BaseException]


class RunLoop:
    """Runs the stages of one epoch of one run."""

    def __init__(self, plan: Plan, tools: RunTools, lost: threading.Event) -> None:
        self._plan, self._tools, self._lost = plan, tools, lost
        self._stages = {stage.id: stage for stage in plan.stages}
        self._progress = _Progress(waiting={stage.id: stage for stage in plan.to_run})
        self._progress.done = {stage.id: None for stage in plan.stages if stage.action != "run"}
        self._results: queue.SimpleQueue[_StageResult] = queue.SimpleQueue()
        self._state = RunState.RUNNING
        self._waits: dict[str, str] = {}  # by stage: what it was recorded to wait for
        self._held: set[str] = set()  # stages that could start but for their admission
        self._made_way = ""  # why the queue asked this run to stop
        self._cancelled = False  # True: stopped by a cancel request in the database; else by this process
        self._cancel_checked_s = time.monotonic()
        needs = [_cpus(stage) for stage in plan.to_run]
        tools.cluster.raise_local_cpu_limit(max(needs, default=0.0))
        self._num_cpus = tools.cluster.cpus if needs else 0.0

    def run(self) -> dict[str, Artifact]:
        progress = self._progress
        while True:
            self._held = set()
            if not self._tools.stop.is_set():
                self._start_ready()
            if not progress.running and not self._held:
                break
            if self._tools.out_of_time.is_set():
                self._leave_stages()
                break
            self._take_result()
            self._check_stop()
        if not self._tools.detached.is_set():  # else jobs go on in their room
            self._tools.admission.close()
        return self._finish()

    def _start_ready(self) -> None:
        """Start stages in the plan's order while there is room; a stage larger than the cluster runs alone."""
        progress = self._progress
        for stage in list(progress.waiting.values()):
            if any(name not in progress.done for name in upstream_ids(stage.spec)):
                continue
            reason = self._taken_by_this_run(stage)
            if not reason and (reason := self._not_admitted(stage)):
                self._held.add(stage.id)
            if reason:
                self._note_wait(stage, reason)
                continue
            if _cpus(stage) > self._num_cpus:
                self._warn_about_size(stage)
            del progress.waiting[stage.id]
            progress.running[stage.id] = stage
            # A daemon: the second Ctrl-C ends the process whatever a stage is doing.
            threading.Thread(target=self._run_stage, args=(stage,), name=f"stage {stage.id}", daemon=True).start()

    def _taken_by_this_run(self, stage: PlannedStage) -> str:
        """What the stage lacks because of other stages of this run; empty: nothing."""
        running = self._progress.running
        used = sum(_cpus(other) for other in running.values())
        if not running or used + _cpus(stage) <= self._num_cpus:
            return ""
        return f"{_cpus(stage):g} CPUs: {used:g} of {self._num_cpus:g} are taken by {', '.join(running)}"

    def _not_admitted(self, stage: PlannedStage) -> str:
        is_at_work = stage.id in self._tools.surviving_attempts
        return self._tools.admission.why_not(stage, is_at_work=is_at_work)

    def _note_wait(self, stage: PlannedStage, reason: str) -> None:
        """Record what a stage waits for, once for each reason."""
        if self._waits.get(stage.id) != reason:
            self._waits[stage.id] = reason
            tools = self._tools
            tools.history.record(tools.run_id, EventKind.WAITING, {"for": reason}, epoch=tools.epoch, stage_id=stage.id)

    def _warn_about_size(self, stage: PlannedStage) -> None:
        fields: dict[str, JSON] = {"cpus": _cpus(stage), "cluster_cpus": self._num_cpus}
        self._tools.history.record(
            self._tools.run_id, "larger_than_cluster", fields, epoch=self._tools.epoch, stage_id=stage.id
        )
        log.warning("%s asks for %g CPUs, the cluster has %g: it runs alone", stage.id, _cpus(stage), self._num_cpus)

    def _run_stage(self, stage: PlannedStage) -> None:
        inputs = {slot: [self._stages[name] for name in ids] for slot, ids in stage.spec.inputs.items()}
        try:
            self._results.put((stage.id, StageRun(stage, inputs, self._tools).run()))
        except BaseException as error:  # noqa: BLE001 - passed to the driver's thread
            self._results.put((stage.id, error))

    def _take_result(self) -> None:
        """Record the next result of a stage. Raises: errors that end the driver."""
        progress = self._progress
        try:
            stage_id, result = self._results.get(timeout=POLL_S)
        except queue.Empty:
            return
        del progress.running[stage_id]
        if not self._tools.detached.is_set():
            self._tools.admission.release(stage_id)
        if isinstance(result, Artifact):
            progress.done[stage_id] = result
        elif isinstance(result, CancelledError | DetachedError):
            progress.stopped.append(stage_id)
        elif isinstance(result, PermanentStageError):
            progress.failed[stage_id] = result
        else:
            self._tools.detached.set()  # this driver cannot go on; that is no reason to stop the jobs
            self._tools.stop.set()
            if not isinstance(result, DRIVER_ERRORS):
                log.error("%s: %s", stage_id, result)
            raise result

    def _check_stop(self) -> None:
        tools = self._tools
        if self._lost.is_set():
            self._wait_for_stages()
            kept = "is kept" if tools.cluster.jobs is None else "is kept, and jobs keep running"
            raise LeaseLostError(
                f"run {tools.run_id}: its lease was lost, so another driver may run it now; what was committed {kept}. "
                f"Continue with `illume resume {tools.run_id}`"
            )
        if not tools.stop.is_set() and time.monotonic() - self._cancel_checked_s >= CANCEL_POLL_S:
            self._cancel_checked_s = time.monotonic()
            self._cancelled = self._is_cancel_requested()
            self._made_way = "" if self._cancelled else self._stop_reason()
            if self._cancelled or self._made_way:
                tools.stop.set()
        if tools.stop.is_set() and not tools.detached.is_set() and self._state is RunState.RUNNING:
            self._transition(RunState.STOPPING)

    def _is_cancel_requested(self) -> bool:
        try:
            return self._tools.history.cancel_requested(self._tools.run_id)
        except DatabaseError as error:  # the next state transition fails if the database is gone for good
            log.warning("run %s: %s", self._tools.run_id, error)
            return False

    def _stop_reason(self) -> str:
        try:
            return self._tools.admission.stop_reason()
        except DatabaseError as error:  # as above
            log.warning("run %s: %s", self._tools.run_id, error)
            return ""

    def _leave_stages(self) -> None:
        """End the attempts whose stages have not stopped in time, so that nothing of them arrives later. Not jobs."""
        tools, jobs = self._tools, self._tools.cluster.jobs
        self._progress.stopped += self._progress.running
        self._progress.running = {}
        try:
            for attempt in [] if jobs is not None else tools.history.open_attempts(tools.run_id):
                tools.end_attempt(attempt, message="it had not stopped when the time for it was over")
        except OrchestratorError as error:  # the next driver does it
            log.warning("run %s: an attempt could not be ended: %s", tools.run_id, error)

    def _wait_for_stages(self) -> None:
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while self._progress.running and time.monotonic() < deadline_s:
            try:
                stage_id, _ = self._results.get(timeout=POLL_S)
            except queue.Empty:
                continue
            del self._progress.running[stage_id]

    def _finish(self) -> dict[str, Artifact]:
        """Record how the run ended; returns the artifacts or raises the matching error."""
        progress, run_id = self._progress, self._tools.run_id
        if progress.failed:
            message = _failure_message(run_id, progress)
            self._transition(RunState.FAILED, message)
            raise self._failure_error()(message)
        if progress.waiting or progress.stopped:
            left = ", ".join([*progress.stopped, *progress.waiting])
            keeps_jobs = self._tools.detached.is_set() and self._tools.cluster.jobs is not None
            end = "detached, its jobs keep running" if keeps_jobs else "stopped"
            end = f"{end}: {self._made_way}" if self._made_way else end
            message = f"run {run_id}: {end}; not done: {left}. Continue with `illume resume {run_id}`"
            # Read again: jobs see a cancel in the store, and can stop before it was read here.
            is_cancelled = self._cancelled or (not self._tools.stop.is_set() and self._is_cancel_requested())
            self._transition(RunState.CANCELLED if is_cancelled else RunState.INTERRUPTED, message)
            raise CancelledError(message) if is_cancelled else StoppedError(message)
        self._transition(RunState.SUCCEEDED)
        return {stage_id: artifact for stage_id, artifact in progress.done.items() if artifact is not None}

    def _failure_error(self) -> type[StageFailedError]:
        progress = self._progress
        failures = {error.failure for error in progress.failed.values()}
        if failures <= INFRASTRUCTURE:
            return InfrastructureFailedError
        if failures == {FailureClass.PRECHECK} and not any(progress.done.values()):
            return NothingRanError
        return StageFailedError

    def _transition(self, new: RunState, message: str = "") -> None:
        fields: Mapping[str, JSON] = {"message": message} if message else {}
        self._tools.history.transition_run(self._tools.run_id, self._state, new, epoch=self._tools.epoch, fields=fields)
        self._state = new


def _cpus(stage: PlannedStage) -> float:
    return stage.spec.resources.workers * stage.spec.resources.cpus


def _failure_message(run_id: str, progress: _Progress) -> str:
    lines = [f"run {run_id}: {_count(progress.failed, 'stage')} failed"]
    for stage_id, error in progress.failed.items():
        lines += [f"  {stage_id}:", *(f"    {line}" for line in str(error).splitlines())]
    if progress.waiting:
        lines.append(f"  blocked: {', '.join(progress.waiting)}")
    if progress.stopped:
        lines.append(f"  stopped: {', '.join(progress.stopped)}")
    lines.append("  What was committed is safe, shards and checkpoints too; nothing is retried automatically.")
    return "\n".join([*lines, f"  Continue with `illume resume {run_id}` once the cause is gone"])


def _count(things: Mapping[str, object] | Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
