"""An attempt that a stage driver carries out as a job of a Ray cluster; this side submits, follows and concludes it.

The job has a submission id of its own for each attempt, so whoever follows it, follows the same one: a controller that
was killed and started again goes on where the other stopped, and the stage never noticed.
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
from orchestrator.cluster.ray_jobs import ENDED, JobInfo, RayJobs
from orchestrator.errors import CancelledError, NodeLostError, OrchestratorError, StoreError
from orchestrator.execution.job_records import JobOutcome, JobRecords
from orchestrator.execution.local_attempt import Order
from orchestrator.failures.classes import classified
from orchestrator.history.run_store import RunStore
from orchestrator.stage import Tracker

log = logging.getLogger(__name__)

POLL_S = 1.0
SUBMIT_PATIENCE_S = 120.0  # a head that has just come up takes no jobs yet
LOGS_EVERY = 10  # looks at the job for one look at what it printed
LAST_LINES = 20  # of a job that ended without a word


def job_id_of(attempt_id: str) -> str:
    """The submission id of an attempt's job."""
    return f"illume-{attempt_id}"


@dataclass(kw_only=True)
class JobWork:
    """One attempt; `carry_out` is called once by each controller."""

    order: Order
    jobs: RayJobs
    artifacts: ArtifactStore
    plan_digest: str
    tracker: Tracker
    history: RunStore
    stop: threading.Event
    _outcome: JobOutcome | None = None
    _step_before: int | None = None
    _printed: int = 0  # characters of the job's output that the log has
    _warned: str = ""
    _told: list[str] = field(default_factory=list)

    def carry_out(self, started: Callable[[], None]) -> Artifact:
        """Submit the job, or find it at work, and follow it to its end.

        Raises: what the stage failed with, by class; CancelledError after a clean stop; NodeLostError if the job
        ended without a word; PrecheckError if the cluster refuses it.
        """
        planned = self.order.planned
        kind, fingerprint = planned.spec.kind.name, planned.fingerprint
        self._step_before = newest_checkpoint_step(self.artifacts.store, kind, fingerprint)
        self._records.announce()
        if self._records.outcome() is None:
            self._submit()
        started()
        self._outcome = outcome = self._follow()
        if outcome.failure is not None:
            raise classified(outcome.failure.failure, outcome.failure.traceback)
        if outcome.stopped:
            raise CancelledError(outcome.stopped)
        return self.artifacts.open(kind, fingerprint)

    def progressed(self) -> bool:
        if self._outcome is not None:
            return self._outcome.progressed
        planned = self.order.planned
        step = newest_checkpoint_step(self.artifacts.store, planned.spec.kind.name, planned.fingerprint)
        return (step or -1) > (self._step_before or -1)

    def abandon(self, reason: str) -> None:
        """The stage driver gives its files up itself; those of one that was killed are found by the collector."""

    def close(self) -> None:
        """Nothing of a job lies on this machine."""

    @property
    def _job_id(self) -> str:
        return job_id_of(self.order.attempt_id)

    @property
    def _records(self) -> JobRecords:
        return JobRecords(store=self.artifacts.store, run_id=self.order.run_id, attempt_id=self.order.attempt_id)

    def _submit(self) -> None:
        """Again and again, which the job's id makes harmless, until the cluster takes it.

        Raises: NodeLostError: it did not in all that time; CancelledError; PrecheckError.
        """
        metadata = {"run": self.order.run_id, "stage": self.order.planned.id}
        give_up_at = time.monotonic() + SUBMIT_PATIENCE_S
        while True:
            try:
                return self.jobs.submit(self._job_id, self._arguments(), metadata)
            except NodeLostError as error:
                if time.monotonic() > give_up_at:
                    raise
                if str(error) != self._warned:
                    log.warning("%s; submitting again for up to %.0f s", error, SUBMIT_PATIENCE_S)
                self._warned = str(error)
            if self.stop.wait(POLL_S):
                raise CancelledError(f"{self._job_id}: stopped before the cluster took it")

    def _arguments(self) -> str:
        order = self.order
        words = ["stage-driver", order.run_id, order.planned.id, order.attempt_id, "--plan", self.plan_digest]
        words += ["--epoch", str(order.epoch), "--memory-halvings", str(order.memory_halvings)]
        return shlex.join([*words, "--store", self.artifacts.store.url])

    def _follow(self) -> JobOutcome:
        reader = _TelemetryReader(self._records, self.tracker, self.history, self.order)
        looks = 0
        while True:
            info, outcome = self._look(reader)
            if outcome is not None or info is None or info.state in ENDED:
                break
            if self.stop.is_set():
                self._records.ask_stop()
            if looks % LOGS_EVERY == 0:
                self._log_output()
            looks += 1
            time.sleep(POLL_S)
        _, outcome = self._look(reader)  # once more: it may have said something just before the end
        self._log_output()
        if outcome is None:
            said = "is not known to the cluster any more" if info is None else f"ended as {info.state}: {info.message}"
            last = "\n".join(["its last lines:", *self._told]) if self._told else "it printed nothing"
            raise NodeLostError(f"job {self._job_id} {said} and left no result; {last}")
        return outcome

    def _look(self, reader: "_TelemetryReader") -> tuple[JobInfo | None, JobOutcome | None]:
        """Patient: neither the cluster nor the store must be there all the time, the job goes on without us."""
        while True:
            try:
                reader.forward()
                found = self.jobs.info(self._job_id), self._records.outcome()
                self._warned = ""
                return found
            except (NodeLostError, StoreError) as error:
                if str(error) != self._warned:
                    log.warning("%s; looking again every %.0f s, the stage goes on meanwhile", error, POLL_S)
                self._warned = str(error)
                if self.stop.wait(POLL_S):
                    raise CancelledError(f"{self._job_id}: stopped following it; it goes on") from error

    def _log_output(self) -> None:
        try:
            text = self.jobs.logs(self._job_id)
        except OrchestratorError as error:
            log.warning("what job %s printed cannot be read now: %s", self._job_id, error)
            return
        lines = text[self._printed :].splitlines()
        self._printed = len(text)
        self._told = [*self._told, *lines][-LAST_LINES:]
        for line in lines:
            log.info("%s", line)


class _TelemetryReader:
    """Passes batches on to the database, each exactly once, whichever controller reads them."""

    def __init__(self, records: JobRecords, tracker: Tracker, history: RunStore, order: Order) -> None:
        self._records, self._tracker, self._history = records, tracker, history
        self._attempt_id = order.attempt_id
        self._last_point_at, self._num_said = history.told_by(order.attempt_id)

    def forward(self) -> None:
        """Record what has come in, then delete it from the store."""
        read = list(self._records.telemetry())
        for batch in read:
            new = [point for point in batch.points if point[3] > self._last_point_at]
            self._history.telemetry.log_points(self._attempt_id, new)
            self._last_point_at = max((point[3] for point in new), default=self._last_point_at)
            for kind, fields in batch.said[max(0, self._num_said - batch.first_said) :]:
                self._tracker.log_event(kind, fields)
            self._num_said = max(self._num_said, batch.first_said + len(batch.said))
            if batch.progress is not None:
                self._tracker.progress(*batch.progress)
        if read:
            self._history.telemetry.flush()
            for batch in read:
                self._records.store.delete(batch.key)
