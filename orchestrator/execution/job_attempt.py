"""Runs an attempt as a Ray job: submit, poll, collect the result.

The submission id of the job is derived from the attempt, so a controller that is restarted finds the same job and
continues to poll it; the stage is not interrupted.
"""

import logging
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.artifact import Artifact
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.stage_records import newest_checkpoint_step
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.ray_jobs import ENDED, JobInfo, RayJobs
from orchestrator.errors import CancelledError, NodeLostError, OrchestratorError, StoreError
from orchestrator.execution.job_records import JobOutcome, JobRecords
from orchestrator.execution.local_attempt import AttemptRequest
from orchestrator.failures.classes import classified
from orchestrator.history.run_store import RunStore
from orchestrator.stage import Tracker

log = logging.getLogger(__name__)

POLL_S = 1.0
SUBMIT_TIMEOUT_S = 120.0  # a head that has just started accepts no jobs yet
POLLS_PER_LOG_READ = 10  # polls of the job for each read of its output
LAST_LINES = 20  # of the output, shown when a job ended without an outcome


def job_id_of(attempt: AttemptId) -> str:
    """The submission id of an attempt's job."""
    return f"illume-{attempt}"


@dataclass(kw_only=True)
class JobAttempt:
    """One attempt as a Ray job. Each controller calls `run` once."""

    request: AttemptRequest
    jobs: RayJobs
    artifacts: ArtifactStore
    plan_digest: str
    tracker: Tracker
    history: RunStore
    stop: threading.Event
    _outcome: JobOutcome | None = None
    _step_before: int | None = None
    _num_logged: int = 0  # characters of the job's output that are in the log
    _warned: str = ""
    _last_lines: list[str] = field(default_factory=list)

    def run(self, on_started: Callable[[], None]) -> Artifact:
        """Submit the job, unless it runs already, and poll it to its end.

        Raises: the stage's failure as an error of its class; CancelledError after a clean stop; NodeLostError if the
        job ended without an outcome; PrecheckError if the cluster refuses it.
        """
        planned = self.request.planned
        self._step_before = newest_checkpoint_step(self.artifacts.store, planned.key)
        self._records.announce()
        if self._records.outcome() is None:
            self._submit()
        on_started()
        self._outcome = outcome = self._poll_to_end()
        if outcome.failure is not None:
            raise classified(outcome.failure.failure, outcome.failure.traceback)
        if outcome.stopped:
            raise CancelledError(outcome.stopped)
        return self.artifacts.open(planned.key)

    def progressed(self) -> bool:
        if self._outcome is not None:
            return self._outcome.progressed
        planned = self.request.planned
        step = newest_checkpoint_step(self.artifacts.store, planned.key)
        return (step or -1) > (self._step_before or -1)

    def abort(self, reason: str) -> None:
        """Does nothing: the stage driver aborts its attempt itself; if it was killed, the garbage collector does."""

    def close(self) -> None:
        """Does nothing: a job leaves nothing on this machine."""

    @property
    def _job_id(self) -> str:
        return job_id_of(self.request.attempt)

    @property
    def _records(self) -> JobRecords:
        return JobRecords(store=self.artifacts.store, attempt=self.request.attempt)

    def _submit(self) -> None:
        """Submit repeatedly until the cluster accepts the job; its id makes repeats harmless.

        Raises: NodeLostError: not accepted within `SUBMIT_TIMEOUT_S`; CancelledError; PrecheckError.
        """
        metadata = {"run": self.request.attempt.run_id, "stage": self.request.planned.id}
        deadline_s = time.monotonic() + SUBMIT_TIMEOUT_S
        while True:
            try:
                return self.jobs.submit(self._job_id, self._arguments(), metadata)
            except NodeLostError as error:
                if time.monotonic() > deadline_s:
                    raise
                if str(error) != self._warned:
                    log.warning("%s; submitting again for up to %.0f s", error, SUBMIT_TIMEOUT_S)
                self._warned = str(error)
            if self.stop.wait(POLL_S):
                raise CancelledError(f"{self._job_id}: stopped before the cluster accepted it")

    def _arguments(self) -> str:
        attempt = self.request.attempt
        words = ["stage-driver", attempt.run_id, attempt.stage_id, attempt.name, "--plan", self.plan_digest]
        words += ["--epoch", str(attempt.epoch), "--memory-halvings", str(self.request.memory_halvings)]
        return shlex.join([*words, "--store", self.artifacts.store.url])

    def _poll_to_end(self) -> JobOutcome:
        forwarder = _TelemetryForwarder(self._records, self.tracker, self.history, self.request.attempt)
        num_polls = 0
        while True:
            info, outcome = self._poll(forwarder)
            if outcome is not None or info is None or info.state in ENDED:
                break
            if self.stop.is_set():
                self._records.request_stop()
            if num_polls % POLLS_PER_LOG_READ == 0:
                self._log_output()
            num_polls += 1
            time.sleep(POLL_S)
        _, outcome = self._poll(forwarder)  # once more, for what it reported just before the end
        self._log_output()
        if outcome is None:
            end = "is not known to the cluster any more" if info is None else f"ended as {info.state}: {info.message}"
            last = "\n".join(["its last lines:", *self._last_lines]) if self._last_lines else "it printed nothing"
            raise NodeLostError(f"job {self._job_id} {end} and left no outcome; {last}")
        return outcome

    def _poll(self, forwarder: "_TelemetryForwarder") -> tuple[JobInfo | None, JobOutcome | None]:
        """State and outcome of the job. Waits while the cluster or the store is away, as the job runs meanwhile."""
        while True:
            try:
                forwarder.forward()
                found = self.jobs.info(self._job_id), self._records.outcome()
                self._warned = ""
                return found
            except (NodeLostError, StoreError) as error:
                if str(error) != self._warned:
                    log.warning("%s; polling every %.0f s, the stage keeps running meanwhile", error, POLL_S)
                self._warned = str(error)
                if self.stop.wait(POLL_S):
                    raise CancelledError(f"{self._job_id}: stopped polling it; the job keeps running") from error

    def _log_output(self) -> None:
        try:
            text = self.jobs.logs(self._job_id)
        except OrchestratorError as error:
            log.warning("the output of job %s cannot be read now: %s", self._job_id, error)
            return
        lines = text[self._num_logged :].splitlines()
        self._num_logged = len(text)
        self._last_lines = [*self._last_lines, *lines][-LAST_LINES:]
        for line in lines:
            log.info("%s", line)


class _TelemetryForwarder:
    """Forwards telemetry batches to the database, each exactly once, even if the controller is restarted."""

    def __init__(self, records: JobRecords, tracker: Tracker, history: RunStore, attempt: AttemptId) -> None:
        self._records, self._tracker, self._history = records, tracker, history
        self._attempt_id = attempt.name
        self._last_point_at, self._num_events = history.forwarded_up_to(attempt.name)

    def forward(self) -> None:
        """Record the batches in the store, then delete them there."""
        batches = list(self._records.telemetry())
        for batch in batches:
            new = [point for point in batch.points if point[3] > self._last_point_at]
            self._history.telemetry.log_points(self._attempt_id, new)
            self._last_point_at = max((point[3] for point in new), default=self._last_point_at)
            for kind, fields in batch.events[max(0, self._num_events - batch.first_event) :]:
                self._tracker.log_event(kind, fields)
            self._num_events = max(self._num_events, batch.first_event + len(batch.events))
            if batch.progress is not None:
                self._tracker.progress(*batch.progress)
        if batches:
            self._history.telemetry.flush()
            for batch in batches:
                self._records.store.delete(batch.key)
