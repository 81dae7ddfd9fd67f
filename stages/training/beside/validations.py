"""Validates checkpoints beside a training, as soon as they are committed and a worker is free.

Training waits for none of it, and nothing that fails here fails the training.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from orchestrator.stage import StageContext
from stages.training.beside.side_run import SideProcess, SideRun, StartSideRun
from stages.training.watching.notices import VALIDATION_FAILED
from stages.training.workers.worker import WorkerSettings

logger = logging.getLogger(__name__)

POLL_S = 0.5  # while only the last validation runs
NO_ROOM_S = 30.0  # between two questions whether a worker is free


class ValidationsBeside:
    """Of one attempt. Used by one thread."""

    def __init__(
        self,
        settings: WorkerSettings,
        context: StageContext,
        start: StartSideRun,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._context, self._start, self._clock = settings, context, start, clock
        self._run: SideRun | None = None
        self._started = 0
        self._began_at = 0.0
        self._begun_step: int | None = None  # of the training, when the newest validation began
        self._done = -1  # step of the newest validation
        self._asked_at = float("-inf")
        self.metrics: dict[str, float] = {}  # of the newest validation

    def committed(self, step: int) -> None:
        """A checkpoint was committed; `step`: of the training by now. Begins a validation if it is time for one."""
        self.poll()
        every, now = self._settings.execution.watch.validate_every, self._clock()
        is_due = self._begun_step is None or step >= self._begun_step + every
        if self._run is not None or not is_due or now - self._asked_at < NO_ROOM_S:
            return
        if self._begin():
            self._begun_step = step
        else:
            self._asked_at = now

    def poll(self) -> None:
        """Take the result of a validation that has ended."""
        limit_s = self._context.retry.hang_after_s
        if self._run is None:
            return
        found = self._run.result()
        if found is None:
            if self._clock() - self._began_at > limit_s:
                self._fail(f"it did not end within {limit_s:.0f} s")
                self._end()
            return
        self._end()
        if found.metrics is None:
            self._fail(found.error)
        elif found.step > self._done:
            self._done, self.metrics = found.step, found.metrics
            self._context.tracker.log_metrics(found.metrics, step=found.step)
            logger.info("%s: step %d, beside training: %s", self._context.stage_id, found.step, _text(found.metrics))

    def finish(self, step: int) -> Mapping[str, float]:
        """Validate the last checkpoint too, whose training has ended. Returns the metrics of the newest validation."""
        self._wait()
        if self._done < step and not self._context.stop_requested() and self._begin():
            self._wait()
        return self.metrics

    def close(self) -> None:
        if self._run is not None:
            self._end()

    def _wait(self) -> None:
        while self._run is not None and not self._context.stop_requested():
            self.poll()
            time.sleep(POLL_S if self._run is not None else 0.0)

    def _begin(self) -> bool:
        name = f"validation-{self._started}"
        folder = self._settings.stacks / "validation"
        try:
            self._run = self._start(replace(self._settings, beside=name, stacks=folder))
        except Exception as error:
            logger.exception("%s: a validation beside training cannot start", self._context.stage_id)
            self._fail(f"{type(error).__name__}: {error}")
        if self._run is None:
            return False
        self._started, self._began_at = self._started + 1, self._clock()
        return True

    def _end(self) -> None:
        assert self._run is not None, "called while one runs"
        self._run.close()
        self._run = None

    def _fail(self, why: str) -> None:
        message = f"a validation beside training failed, training goes on: {why}"
        logger.warning("%s: %s", self._context.stage_id, message)
        self._context.tracker.log_event(VALIDATION_FAILED, {"step": self._begun_step or 0, "message": message})


def start_side_run(context: StageContext) -> StartSideRun:
    """Starts evaluations where the training workers of this stage run, if one more has room there."""
    resources = context.resources

    def start(settings: WorkerSettings) -> SideRun | None:
        if context.plain_training_workers:
            free = len(os.sched_getaffinity(0)) - resources.workers * resources.cpus
            return SideProcess(settings) if free >= resources.cpus else None
        from stages.training.beside.ray_run import RayRun, has_room  # late: needs Ray

        return RayRun(settings, resources) if has_room(resources) else None

    return start


def _text(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name.endswith("/loss"))
