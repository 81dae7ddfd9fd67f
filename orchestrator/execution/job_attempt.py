"""Runs an attempt as a job of a cluster: submit, poll, collect the result.

The submission id of the job is derived from the attempt, so a controller that is restarted finds the same job and
continues to poll it; the stage is not interrupted. Every write for the job is behind the controller's epoch. The job
writes its log into the store by itself; its output is read only if it ended without an outcome.
"""

import logging
import re
import shlex
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from orchestrator.artifact import JSON, Artifact
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.run_epochs import EpochGuard
from orchestrator.artifacts.stage_records import has_recorded_shards, newest_checkpoint_step
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.jobs import ENDED, JobInfo, JobLauncher
from orchestrator.cluster.jobs import JobState as LauncherState
from orchestrator.errors import (
    CancelledError,
    DatabaseError,
    DetachedError,
    LeaseLostError,
    NodeLostError,
    OrchestratorError,
    PrecheckError,
    StoreError,
)
from orchestrator.execution.job_end import conclude, is_preempted
from orchestrator.execution.local_attempt import AttemptRequest
from orchestrator.failures.classes import classified
from orchestrator.history.events import EventKind
from orchestrator.history.run_store import ForwardedTelemetry, RunStore
from orchestrator.installation.version import version
from orchestrator.liveness.job_records import JobOutcome, JobRecords, TelemetryBatch, job_id_of, jobs_folder
from orchestrator.liveness.liveness import JobState, job_state
from orchestrator.logs.run_logs import JOB_SUFFIX
from orchestrator.stage import Tracker

log = logging.getLogger(__name__)

POLL_S = 1.0
SUBMIT_TIMEOUT_S = 120.0  # a head that has just started accepts no jobs yet
POLLS_FOR_REASON = 60  # of a job that was stopped, until it has ended and its cluster says by whom
LAST_LINES = 20  # of the output, shown when a job ended without an outcome


def stage_driver_arguments(
    attempt: AttemptId,
    plan_digest: str,
    store: str,
    *,
    memory_halvings: int = 0,
    avoided_nodes: Collection[str] = (),
    controller_version: str = "",
) -> str:
    """The words of the command line that runs an attempt."""
    words = ["stage-driver", attempt.run_id, attempt.stage_id, attempt.name, "--plan", plan_digest]
    words += ["--controller-version", controller_version] if controller_version else []
    words += ["--epoch", str(attempt.epoch), "--memory-halvings", str(memory_halvings)]
    words += [word for node in sorted(avoided_nodes) for word in ("--avoid-node", node)]
    return shlex.join([*words, "--store", store])


class StoppedForAnotherError(CancelledError):
    """The job stopped because the driver of an earlier epoch had asked it to; this driver wants it to run."""


@dataclass(kw_only=True)
class JobAttempt:
    """One attempt as a job. Each controller calls `run` once."""

    request: AttemptRequest
    jobs: JobLauncher
    artifacts: ArtifactStore
    plan_digest: str
    tracker: Tracker
    history: RunStore
    stop: threading.Event  # set: end; the job is asked to stop too, unless `detached` is set
    guard: EpochGuard
    detached: threading.Event = field(default_factory=threading.Event)
    _outcome: JobOutcome | None = None
    _step_before: int | None = None
    _is_asked_to_stop: bool = False
    _warned: str = ""
    _waits_for: str = ""  # what the cluster says it waits for

    def run(self, on_started: Callable[[], None]) -> Artifact:
        """Submit the job, unless it runs already, and poll it to its end.

        Raises: the stage's failure as an error of its class; CancelledError after a clean stop; DetachedError if the
        job keeps running and is not followed any more; NodeLostError if the job ended without an outcome;
        PrecheckError if the cluster refuses it; LeaseLostError if another driver took over.
        """
        planned = self.request.planned
        self._step_before = newest_checkpoint_step(self.artifacts.store, planned.key)
        if self._records.outcome() is None:
            self.guard.check()
            self._records.announce()
            self._submit()
        on_started()
        log.info("job %s runs it, and writes the log %s%s", self._job_id, self.request.attempt.name, JOB_SUFFIX)
        self._outcome = outcome = self._follow()
        if outcome.failure is not None:
            raise classified(outcome.failure.failure, outcome.failure.traceback)
        if outcome.stopped and not self.stop.is_set() and self._records.was_stopped_for_another():
            raise StoppedForAnotherError(f"{self._job_id}: stopped for an earlier driver; it is started again")
        if outcome.stopped:
            raise CancelledError(outcome.stopped)
        return self.artifacts.locate(planned.key)

    def progressed(self) -> bool:
        """True if it committed a checkpoint or recorded shards; of a job that left no outcome, the store tells."""
        if self._outcome is not None:
            return self._outcome.progressed
        planned = self.request.planned
        store = self.artifacts.store
        if (newest_checkpoint_step(store, planned.key) or -1) > (self._step_before or -1):
            return True
        return has_recorded_shards(store, planned.spec.kind.name, self.request.attempt.name)

    def abort(self, reason: str) -> None:
        """Fence the attempt: its job may still be running on a node that nobody sees. Deletes nothing.

        Without an outcome the job is also asked to stop, through the store: it would go on until its next write.
        """
        attempt = self.request.attempt
        try:
            self.guard.check()  # a successor may follow the job, or have seen it commit
            if self._outcome is None:
                self._request_stop()
            self.artifacts.abort_attempt(self.request.planned.key, attempt.name, reason=reason)
        except OrchestratorError as error:  # the next attempt, or the next driver, does it before it goes on
            log.warning("%s: could not be aborted in the store: %s", attempt, error)

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
        metadata = {"run": self.request.attempt.run_id, "stage": self.request.attempt.stage_id}
        deadline_s = time.monotonic() + SUBMIT_TIMEOUT_S
        while True:
            try:
                self.guard.check()
                self._end_earlier_jobs()
                return self.jobs.submit(self._job_id, self._arguments(), metadata)
            except NodeLostError as error:
                if time.monotonic() > deadline_s:
                    if job_state(self.request.attempt, store=self.artifacts.store, jobs=self.jobs) is JobState.RUNNING:
                        return None  # only the answer was lost
                    raise
                if str(error) != self._warned:
                    log.warning("%s; submitting again for up to %.0f s", error, SUBMIT_TIMEOUT_S)
                self._warned = str(error)
            if self.stop.wait(POLL_S):
                self._raise_if_detached()
                raise CancelledError(f"{self._job_id}: stopped before the cluster accepted it")

    def _end_earlier_jobs(self) -> None:
        """Ask about the jobs of earlier attempts at this stage, as anything may have ended following them.

        Raises: NodeLostError: one is running and was told to stop, or the cluster does not say.
        """
        attempt, store = self.request.attempt, self.artifacts.store
        of_stage = re.compile(rf"{re.escape(f'{attempt.run_id}-{attempt.stage_id}')}-\d+-\d+")
        for name in store.folders(jobs_folder(attempt.run_id)):
            if name == attempt.name or not of_stage.fullmatch(name):
                continue
            earlier = replace(attempt, name=name)
            state = job_state(earlier, store=store, jobs=self.jobs)
            if state is JobState.RUNNING:
                log.warning("job %s of an earlier attempt is still running; stopping it", job_id_of(earlier))
                self.jobs.stop(job_id_of(earlier))
            if state in (JobState.RUNNING, JobState.UNKNOWN):
                raise NodeLostError(
                    f"job {job_id_of(earlier)} of an earlier attempt may be running; waiting for its end"
                )

    def _follow(self) -> JobOutcome:
        """Poll the job to its end. Following it may fail in any way, which ends nothing while the job is running."""
        while True:
            try:
                return self._poll_to_end()
            except (CancelledError, DetachedError, LeaseLostError, DatabaseError):
                raise
            except Exception as error:
                if not self._is_running():
                    raise
                if str(error) != self._warned:
                    log.exception("%s: following it failed, but it is running; following it again", self._job_id)
                self._warned = str(error)
                self._pause()

    def _is_running(self) -> bool:
        """Whether the job is running. Waits for as long as the cluster does not say.

        Raises: DetachedError: this driver must end before that.
        """
        while True:
            state = job_state(self.request.attempt, store=self.artifacts.store, jobs=self.jobs)
            if state is not JobState.UNKNOWN:
                return state is JobState.RUNNING
            if self.stop.wait(POLL_S):
                self._raise_if_detached()
                self._request_stop()
                raise DetachedError(f"{self._job_id}: not followed any more; whether it is running is unknown")

    def _arguments(self) -> str:
        request = self.request
        return stage_driver_arguments(
            request.attempt,
            self.plan_digest,
            self.artifacts.store.url,
            memory_halvings=request.memory_halvings,
            avoided_nodes=request.avoided_nodes,
            controller_version=version(),
        )

    def _poll_to_end(self) -> JobOutcome:
        forwarder = _TelemetryForwarder(self._records, self.tracker, self.history, self.request.attempt, self.guard)
        num_polls_stopped = 0
        while True:
            info, outcome = self._poll(forwarder)
            if info is None or info.state in ENDED:
                break
            if outcome is not None:
                is_cut = bool(outcome.stopped) or is_preempted(outcome)
                if not is_cut or self._is_asked_to_stop or num_polls_stopped >= POLLS_FOR_REASON:
                    break
                num_polls_stopped += 1  # a person, or its machines: only the cluster knows, once the job has ended
            self._say_what_it_waits_for(info)
            self._raise_if_detached()
            if self.stop.is_set():
                self._request_stop()
            self._pause()
        _, outcome = self._poll(forwarder)  # once more, for what it reported just before the end
        concluded = conclude(self._job_id, info, outcome, self._last_lines)
        if is_preempted(concluded) and info is not None and info.state not in ENDED:
            self._end_job()
        return concluded

    def _poll(self, forwarder: "_TelemetryForwarder") -> tuple[JobInfo | None, JobOutcome | None]:
        """State and outcome of the job. Waits while the cluster, the store or the database is away: the job runs on."""
        while True:
            try:
                forwarder.forward()
                found = self.jobs.info(self._job_id), self._records.outcome()
                self._warned = ""
                return found
            except (NodeLostError, PrecheckError, StoreError, DatabaseError) as error:  # PrecheckError: its token
                is_cluster = isinstance(error, NodeLostError | PrecheckError)
                if is_cluster and (left := self._left_for_its_machines()) is not None:
                    return None, left  # they may have been those that answer
                if str(error) != self._warned:
                    log.warning("%s; polling every %.0f s, the stage keeps running meanwhile", error, POLL_S)
                self._warned = str(error)
                if self.stop.wait(POLL_S):
                    self._raise_if_detached()
                    self._request_stop()
                    end = "is asked to stop" if self._is_asked_to_stop else "cannot be asked to stop and keeps running"
                    raise DetachedError(f"{self._job_id}: not followed any more; it {end}: {error}") from error

    def _left_for_its_machines(self) -> JobOutcome | None:
        try:
            outcome = self._records.outcome()
        except StoreError:
            return None
        return outcome if outcome is not None and is_preempted(outcome) else None

    def _say_what_it_waits_for(self, info: JobInfo) -> None:
        """Once for each reason of the cluster, and once when it waits no more."""
        reason = (info.message or "the cluster") if info.state is LauncherState.PENDING else ""
        if reason != self._waits_for:
            kind, attempt = EventKind.WAITING if reason else EventKind.WAITED, self.request.attempt
            fields: dict[str, JSON] = {"for": reason or self._waits_for}
            # Of the stage, not of the attempt: the events of the attempt are counted as those that its job has sent.
            self.history.record(attempt.run_id, kind, fields, epoch=attempt.epoch, stage_id=attempt.stage_id)
            log.info("job %s %s", self._job_id, f"waits: {reason}" if reason else "has started")
        self._waits_for = reason

    def _pause(self) -> None:
        """Wait until the next poll; not at all once this driver must end."""
        if self.stop.is_set() and not self.detached.is_set():
            time.sleep(POLL_S)  # the job is asked to stop and needs a while
        else:
            self.stop.wait(POLL_S)

    def _raise_if_detached(self) -> None:
        if self.detached.is_set():
            raise DetachedError(f"{self._job_id}: not followed any more; the job keeps running")

    def _end_job(self) -> None:
        """Of a stage driver that has left: its cluster might queue and start it again, for an attempt that is over."""
        try:
            self.jobs.stop(self._job_id)
        except (NodeLostError, PrecheckError) as error:
            log.warning("job %s may be queued again, and its attempt is over: %s", self._job_id, error)

    def _request_stop(self) -> None:
        """Ask the job to stop; where the store is away, the next poll tries again."""
        if self._is_asked_to_stop:
            return
        try:
            self.guard.check()
            self._records.request_stop()
        except StoreError as error:
            log.warning("job %s cannot be asked to stop now: %s", self._job_id, error)
        else:
            self._is_asked_to_stop = True

    def _last_lines(self) -> str:
        """The end of what the job printed, for the message that it left nothing else."""
        try:
            lines = self.jobs.logs(self._job_id).splitlines()[-LAST_LINES:]
        except OrchestratorError as error:
            return f"its output cannot be read: {error}"
        return "\n".join(["its last lines:", *lines]) if lines else "it printed nothing"


class _TelemetryForwarder:
    """Forwards telemetry batches to the database, each exactly once, even if the controller is restarted."""

    def __init__(
        self, records: JobRecords, tracker: Tracker, history: RunStore, attempt: AttemptId, guard: EpochGuard
    ) -> None:
        self._records, self._tracker, self._history, self._guard = records, tracker, history, guard
        self._attempt_id = attempt.name
        self._forwarded = history.forwarded_up_to(attempt.name)
        history.telemetry.continue_from(attempt.name, self._forwarded.num_points)

    def forward(self) -> None:
        """Record the batches in the store, then delete them there."""
        batches = list(self._records.telemetry())
        for batch in batches:
            known = self._forwarded
            points = _new_points(batch, known)
            self._history.telemetry.log_points(self._attempt_id, points)
            for kind, fields in batch.events[max(0, known.num_events - batch.first_event) :]:
                self._tracker.log_event(kind, fields)
            self._forwarded = ForwardedTelemetry(
                num_points=known.num_points + len(points),
                newest_point_at=max((point[3] for point in points), default=known.newest_point_at),
                num_events=max(known.num_events, batch.first_event + len(batch.events)),
            )
            if batch.progress is not None:
                self._tracker.progress(*batch.progress)
        if batches:
            self._history.telemetry.flush()
            self._guard.check()  # the database drops what a replaced driver writes; its successor needs the batches
            for batch in batches:
                self._records.store.delete(batch.key)


def _new_points(batch: TelemetryBatch, known: ForwardedTelemetry) -> list[tuple[str, float, int, float]]:
    """The points of a batch that are not recorded yet, told by their numbers."""
    if batch.first_point is None:  # of a job of an older version, which has only stamps, always rising
        return [point for point in batch.points if point[3] > known.newest_point_at]
    return batch.points[max(0, known.num_points - batch.first_point) :]
