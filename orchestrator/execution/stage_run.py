"""Runs one stage: waits while another run makes the same artifact, starts attempts, retries after failures.

Runs in its own thread. Errors of the index database and a lost lease end the driver without failing the stage: what was
committed is in the store, where the next driver finds it.
"""

import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.artifact import JSON, Artifact
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.run_epochs import EpochGuard
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.stage_records import retract_stage
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.errors import (
    CancelledError,
    DatabaseError,
    DetachedError,
    LeaseLostError,
    OrchestratorError,
    StoreError,
)
from orchestrator.execution.admission import Admission
from orchestrator.execution.attempt_intent import attempt_intent
from orchestrator.execution.gates import broken_gates, gate_results, gates_to_json
from orchestrator.execution.job_attempt import JobAttempt, StoppedForAnotherError
from orchestrator.execution.local_attempt import AttemptRequest, LocalAttempt
from orchestrator.execution.room import job_size
from orchestrator.failures.classes import FailureReport, classify, report_of
from orchestrator.failures.failure_class import INFRASTRUCTURE, FailureClass
from orchestrator.failures.retries import PastFailure, Retry, decide
from orchestrator.history.attempts import Attempt
from orchestrator.history.events import AttemptState, EventKind
from orchestrator.history.lease_owners import describe
from orchestrator.history.leases import Lease, LeaseKeeper, Leases
from orchestrator.history.run_store import RunStore, StateConflictError
from orchestrator.liveness.liveness import DriverState, Liveness
from orchestrator.logs.run_logs import RunLogs
from orchestrator.planning.plan import PlannedStage
from orchestrator.planning.reasons import QuarantineRetried

log = logging.getLogger(__name__)

MAX_SHOWN_CHARACTERS = 200  # of the cause of a failed attempt that is retried; its log has the complete text
WAIT_S = 1.0  # between two tries to reserve an artifact that another run is making
_SHOWN_TRACEBACKS = {FailureClass.USER_CODE, FailureClass.UNKNOWN, FailureClass.NUMERIC}
DRIVER_ERRORS = (DatabaseError, LeaseLostError, StateConflictError)


@dataclass(frozen=True, kw_only=True)
class RunTools:
    """What all stage runs of one run share."""

    run_id: str
    plan_digest: Callable[[], str]  # made when it is asked for first
    epoch: int
    artifacts: ArtifactStore
    ledger: ShardLedger
    history: RunStore
    leases: Leases
    keeper: LeaseKeeper
    cluster: Cluster
    logs: RunLogs
    scratch: Path
    guard: EpochGuard  # asked before every write to the store that is not an attempt's own
    stop: threading.Event  # set: end; a person wants the work to stop, unless `detached` is set
    detached: threading.Event  # set, then `stop`: this process ends or is no driver any more; jobs keep running
    out_of_time: threading.Event  # set, after `stop`: this process is about to be killed
    end_attempt: Callable[..., None]  # `Takeover.end_attempt` of an attempt that is cancelled
    surviving_attempts: dict[str, Attempt]  # by stage id: jobs of a cluster that outlived the last driver
    liveness: Liveness
    admission: Admission


class PermanentStageError(OrchestratorError):
    """A stage failed and is not retried. Made by `_permanent_error`."""

    failure = FailureClass.UNKNOWN  # of its last attempt


def _permanent_error(failure: FailureClass, message: str) -> PermanentStageError:
    error = PermanentStageError(message)
    error.failure = failure
    return error


@dataclass(frozen=True, kw_only=True)
class _Failed:
    past: PastFailure
    report: FailureReport


class StageRun:
    """Runs one stage of one run; call `run` once."""

    def __init__(self, planned: PlannedStage, inputs: Mapping[str, Sequence[PlannedStage]], tools: RunTools) -> None:
        self._planned, self._inputs, self._tools = planned, inputs, tools
        self._kind = planned.spec.kind
        self._attempt_id = ""  # of the newest attempt
        self._lease: Lease | None = None  # the reservation, until it is released
        self._rng = random.Random(f"{tools.run_id}-{planned.id}-{tools.epoch}")

    def run(self) -> Artifact:
        """The stage's committed artifact: made here, or by another run meanwhile.

        Raises:
            PermanentStageError: it failed and is not retried; the message names the number of attempts.
            CancelledError: a stop was requested; committed shards and checkpoints are kept.
            DetachedError: its job keeps running and is not followed any more.
            DatabaseError, LeaseLostError, StateConflictError: this driver cannot continue.
        """
        with self._reservation():
            if self._planned.redo:
                self._retract_old()
            if self._planned.id in self._tools.surviving_attempts:
                return self._run_attempts()
            found = self._existing()
            return found if found is not None else self._run_attempts()

    # One run at a time makes an artifact.

    @contextmanager
    def _reservation(self) -> Iterator[None]:
        """Hold the lease to make this artifact, so that others wait instead of making it too.

        If it is lost, the artifact may be made twice, which costs only compute time.
        """
        tools, resource = self._tools, f"artifact:{self._planned.fingerprint}"
        told = ""
        while True:
            asked_at = tools.keeper.now()
            lease = tools.leases.acquire(resource)
            maker = self._maker_elsewhere() if lease is not None else self._holder_of(resource)
            if lease is not None and not maker:
                break
            if lease is not None:
                tools.leases.release(lease)
            if maker not in ("", told):
                told = maker
                log.warning("%s: waiting for %s, which makes the same artifact", self._planned.id, maker)
                self._record("waiting", {"for": maker, "fingerprint": self._planned.fingerprint})
            if tools.stop.wait(WAIT_S):
                raise CancelledError(f"{self._planned.id}: stopped while another run was making the same artifact")
        tools.keeper.keep(lease, until_taken=tools.cluster.jobs is not None, asked_at=asked_at)
        self._lease = lease
        try:
            yield
        finally:
            if self._lease is not None:
                tools.keeper.release(lease)

    @contextmanager
    def _releasing(self) -> Iterator[Lease | None]:
        """The reservation, to be released by the body: with what it records, in one transaction."""
        if self._lease is not None:
            self._tools.keeper.stop(self._lease)
        yield self._lease
        self._lease = None

    def _holder_of(self, resource: str) -> str:
        holder = self._tools.leases.holder(resource)
        return "" if holder is None else describe(holder.owner)

    def _maker_elsewhere(self) -> str:
        """Another run whose job may be making this artifact: a job can outlive its driver, and so its reservation."""
        tools = self._tools
        if self._planned.id in tools.surviving_attempts or tools.artifacts.stored(self._planned.key) is not None:
            return ""
        for life in tools.liveness.jobs_at(self._planned.key, but_run=tools.run_id):
            end = (
                ""
                if life.driver.state is DriverState.ALIVE
                else (f"; `illume resume {life.run_id}` follows it, `illume cancel {life.run_id}` stops it")
            )
            return f"run {life.run_id} ({life.describe()}{end})"
        return ""

    def _existing(self) -> Artifact | None:
        """The committed artifact, made by this or another run. Raises: PermanentStageError: it breaks a gate."""
        stored = self._tools.artifacts.stored(self._planned.key)
        if stored is None:
            return None
        errors, _ = broken_gates(self._planned.spec, stored.manifest.metrics)
        if errors:
            raise _permanent_error(FailureClass.USER_CODE, f"made by another run: {'; '.join(errors)}")
        if not stored.commit.attempt.startswith(f"{self._tools.run_id}-"):
            self._record(EventKind.STAGE_REUSED, {"fingerprint": self._planned.fingerprint})
        return self._tools.artifacts.locate(self._planned.key)

    def _retract_old(self) -> None:
        self._tools.guard.check()
        retract_stage(
            self._tools.artifacts,
            self._planned.key,
            run_id=self._tools.run_id,
            reason=f"made again by run {self._tools.run_id}",
            only_quarantined=isinstance(next(iter(self._planned.reasons), None), QuarantineRetried),
        )

    # Attempts.

    def _run_attempts(self) -> Artifact:
        history: list[PastFailure] = []
        halvings = 0
        for number in itertools.count(1):
            result = self._attempt(number, halvings)
            attempt_id = self._attempt_id
            if result is None:
                continue
            if isinstance(result, Artifact):
                return result
            if self._tools.stop.is_set() and result.past.failure in INFRASTRUCTURE:
                # Whoever ends this process often ends its workers and servers too, which is no failure of the stage.
                raise CancelledError(f"{self._planned.id}: stopped; {result.report.summary}")
            history.append(result.past)
            decision = decide(history, self._planned.spec.retry, rng=self._rng)
            if not isinstance(decision, Retry):
                end = f"({decision.message}; attempt {attempt_id})\nWhat to do: {decision.what_to_do}"
                message = f"{result.report.traceback}\n{end}"
                raise _permanent_error(result.past.failure, message)
            halvings = decision.memory_halvings
            cause = f"{result.past.failure}: {(result.report.summary.splitlines() or [''])[0][:MAX_SHOWN_CHARACTERS]}"
            retry = f"retrying in {decision.wait_s:.1f} s, {decision.reason}"
            log.warning("%s failed (%s); %s", self._planned.id, cause, retry)
            self._record(
                "retry",
                {
                    "failure_class": result.past.failure,
                    "wait_s": round(decision.wait_s, 3),
                    "memory_halvings": halvings,
                },
                attempt_id=attempt_id,
            )
            if self._tools.stop.wait(decision.wait_s):
                raise CancelledError(f"{self._planned.id}: stopped before it was retried")
            if (found := self._existing()) is not None:  # an attempt that failed may have committed before
                return found
        raise AssertionError("unreachable: the count of attempts does not end")

    def _attempt(self, number: int, halvings: int) -> Artifact | _Failed | None:
        """The result of one attempt; None: it stopped for an earlier driver, and another one is to be made."""
        tools = self._tools
        survivor = tools.surviving_attempts.pop(self._planned.id, None)
        if survivor is None:
            attempt = AttemptId.of(tools.run_id, self._planned.id, epoch=tools.epoch, number=number)
            tools.history.start_attempt(attempt_intent(self._planned, self._inputs, attempt, tools.artifacts))
            state = AttemptState.INTENT
        else:
            attempt, state = replace(survivor.id, epoch=tools.epoch), survivor.state
        self._attempt_id = attempt.name

        def transition(new: AttemptState, fields: Mapping[str, JSON], **ends: Any) -> None:
            """`ends`: `artifact` and `release` of a commit."""
            nonlocal state
            tools.history.transition_attempt(attempt.name, state, new, epoch=tools.epoch, fields=fields, **ends)
            state = new

        def on_started() -> None:
            if state is AttemptState.INTENT:
                transition(AttemptState.RUNNING, {})

        work = self._work(attempt, halvings)
        with tools.logs.capture(attempt.name):
            try:
                artifact = work.run(on_started)
            except (*DRIVER_ERRORS, DetachedError):
                raise
            except CancelledError as error:
                work.abort(str(error))
                transition(AttemptState.CANCELLED, {"message": str(error)})
                if isinstance(error, StoppedForAnotherError):
                    return None
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary that records a failed attempt
                committed = self._committed_by(attempt)
                if committed is None:
                    return self._failed(error, work, transition)
                log.warning("%s is committed, although it failed after that: %s", attempt, error)
                artifact = committed
            finally:
                tools.logs.finish(attempt.name, tools.scratch / attempt.name)
                work.close()
        gates = gates_to_json(gate_results(self._planned.spec, artifact.manifest.metrics))
        with self._releasing() as lease:
            fields: Mapping[str, JSON] = {"gates": gates} if gates else {}
            transition(AttemptState.COMMITTED, fields, artifact=artifact, release=lease)
        self._register(artifact, attempt.name)
        return artifact

    def _work(self, attempt: AttemptId, halvings: int) -> LocalAttempt | JobAttempt:
        tools = self._tools
        request = AttemptRequest(
            planned=self._planned,
            inputs=self._inputs,
            attempt=attempt,
            memory_halvings=halvings,
            avoided_nodes=tools.history.avoided_nodes(tools.run_id),
        )
        tracker = tools.history.telemetry.tracker(attempt)
        if tools.cluster.jobs is not None:
            return JobAttempt(
                request=request,
                jobs=tools.cluster.jobs.sized(job_size(self._planned.spec.resources)),
                artifacts=tools.artifacts,
                plan_digest=tools.plan_digest(),
                tracker=tracker,
                history=tools.history,
                stop=tools.stop,
                guard=tools.guard,
                detached=tools.detached,
            )
        return LocalAttempt(
            request=request,
            artifacts=tools.artifacts,
            ledger=tools.ledger,
            cluster=tools.cluster,
            tracker=tracker,
            worker_logs=tools.logs.of_workers(attempt.name, tools.scratch / attempt.name),
            scratch=tools.scratch / attempt.name,
            is_stop_requested=tools.stop.is_set,
        )

    def _committed_by(self, attempt: AttemptId) -> Artifact | None:
        """The artifact, if this attempt committed it: it may fail, or its job may be lost, right after that."""
        artifacts = self._tools.artifacts
        try:
            stored = artifacts.stored(self._planned.key)
            is_own = stored is not None and stored.commit.attempt == attempt.name
            return artifacts.locate(self._planned.key) if is_own else None
        except OrchestratorError as error:  # asked again before the next attempt
            log.warning("%s: whether it was committed is unknown: %s", attempt, error)
            return None

    def _register(self, artifact: Artifact, attempt_id: str) -> None:
        """Record the model version for the tracker, if the artifact is a registered model."""
        if self._kind.model_version is not None:
            version = self._kind.model_version(self._planned.spec.config)
            uri = self._tools.artifacts.uri_of(artifact)
            fields: dict[str, JSON] = {"name": version.name, "alias": version.alias, "uri": uri}
            self._record(EventKind.MODEL_VERSION, fields, attempt_id=attempt_id)

    def _failed(
        self,
        error: BaseException,
        work: LocalAttempt | JobAttempt,
        transition: Callable[[AttemptState, Mapping[str, JSON]], None],
    ) -> _Failed:
        report = report_of(error)
        if isinstance(error, OrchestratorError):  # its message needs no traceback
            report = replace(report, traceback=str(error), summary=str(error))
        log.info("%s failed (%s): %s", work.request.attempt, report.failure, report.traceback)
        if report.failure not in _SHOWN_TRACEBACKS and not isinstance(error, OrchestratorError):
            report = replace(report, traceback=report.summary)  # the log has the traceback
        progressed = self._progressed(work)
        work.abort(report.summary[:500])
        transition(
            AttemptState.FAILED,
            {"failure_class": report.failure, "message": report.summary, "progressed": progressed},
        )
        return _Failed(past=PastFailure(failure=classify(error), progressed=progressed), report=report)

    def _progressed(self, work: LocalAttempt | JobAttempt) -> bool:
        """Whether the attempt made progress; False if that is unknown, so that it counts against the retry budget."""
        try:
            return work.progressed()
        except StoreError as error:
            log.warning("%s: whether it made progress is unknown: %s", work.request.attempt, error)
            return False

    def _record(self, kind: str, fields: Mapping[str, JSON], attempt_id: str | None = None) -> None:
        tools = self._tools
        tools.history.record(
            tools.run_id, kind, fields, epoch=tools.epoch, stage_id=self._planned.id, attempt_id=attempt_id
        )
