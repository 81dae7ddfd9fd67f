"""`illume stage-driver`: runs one attempt of one stage as a job of a Ray cluster. Submitted by controllers only."""

import logging
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import click

from clusters.connect import cluster_of_this_job
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.draining import PREEMPTION_SIGNAL
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.commands.shared.options import stage_kinds
from orchestrator.commands.shared.stopping import StopSignals, exit_now, grace_s
from orchestrator.errors import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_REQUEUE,
    EXIT_UNUSABLE,
    CancelledError,
    OrchestratorError,
    PrecheckError,
    RecipeError,
    StoreError,
)
from orchestrator.execution.local_attempt import AttemptRequest, LocalAttempt
from orchestrator.execution.room import check_room
from orchestrator.failures.classes import classified, report_of
from orchestrator.failures.failure_class import INFRASTRUCTURE, FailureClass
from orchestrator.installation.version import version
from orchestrator.liveness.job_records import JobOutcome, JobRecords, StoreTracker
from orchestrator.logs.lines import LineFormatter
from orchestrator.logs.run_logs import RunLogs
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_from_json
from orchestrator.store.copies.copy_budget import cache_of_node
from orchestrator.store.store import Store, open_store

log = logging.getLogger(__name__)

STOP_POLL_S = 1.0  # interval of the checks for a stop request in the store


@click.command("stage-driver", hidden=True)
@click.argument("run_id")
@click.argument("stage_id")
@click.argument("attempt_id")
@click.option("--plan", "digest", required=True)
@click.option("--epoch", type=int, required=True)
@click.option("--memory-halvings", type=int, default=0)
@click.option("--avoid-node", "avoided_nodes", multiple=True)
@click.option("--controller-version", default="")
@click.option("--store", required=True)
def stage_driver_command(
    run_id: str,
    stage_id: str,
    attempt_id: str,
    digest: str,
    epoch: int,
    memory_halvings: int,
    avoided_nodes: tuple[str, ...],
    controller_version: str,
    store: str,
) -> int:
    """Run one attempt of one stage and write its outcome into the store."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    opened = open_store(store)
    attempt = AttemptId(run_id=run_id, stage_id=stage_id, epoch=epoch, name=attempt_id)
    records = JobRecords(store=opened, attempt=attempt)
    signals = StopSignals(grace_s=grace_s(None))
    signals.begin()
    stop = _StopFlag(records, signals.events.stop)
    signal.signal(PREEMPTION_SIGNAL, stop.set_preempted)
    left = _LeftInTime(records)
    signals.leave = left.leave
    with signals, tempfile.TemporaryDirectory(prefix="illume-stage-") as folder:
        logs = RunLogs(store=opened, state=Path(folder), run_id=run_id)
        with logs.capture(attempt.name, is_job=True), StoreTracker(records, log.warning) as tracker:
            try:
                _check_version(controller_version)
                request = _request(_plan(opened, digest), attempt, memory_halvings, frozenset(avoided_nodes))
                outcome = _run(request, logs, tracker, cluster_of_this_job(), stop, left)
            except OrchestratorError as error:  # before any work
                log.error("%s", error)
                outcome = JobOutcome(failure=report_of(error))
        _put_outcome(records, outcome)
    if outcome.stopped or (outcome.failure is not None and outcome.failure.failure is FailureClass.PREEMPTED):
        return EXIT_REQUEUE
    if outcome.failure is None:
        return 0
    if outcome.failure.failure is FailureClass.PRECHECK:
        return EXIT_UNUSABLE  # where the controller sees another store, this says alone that no retry helps
    return EXIT_INFRASTRUCTURE if outcome.failure.failure in INFRASTRUCTURE else EXIT_FAILED


class _StopFlag:
    """A flag that is set by a signal, or when the controller requests a stop through the store."""

    def __init__(self, records: JobRecords, event: threading.Event) -> None:
        self._records, self._event = records, event
        self._polled_at = 0.0
        self._is_notified = False  # its machines are taken away, or the time of its job is over

    def set_preempted(self, _signal: int, _frame: object) -> None:
        self._is_notified = True
        self._event.set()

    def is_preempted(self) -> bool:
        """Nobody wants it to end: who does has said so before the machines were taken away."""
        try:
            return self._is_notified and not self._records.is_stop_requested()
        except StoreError as error:
            log.warning("cannot check for a stop request: %s", error)
            return self._is_notified

    def is_set(self) -> bool:
        if not self._event.is_set() and time.monotonic() - self._polled_at >= STOP_POLL_S:
            self._polled_at = time.monotonic()
            try:
                if self._records.is_stop_requested():
                    self._event.set()
            except StoreError as error:
                log.warning("cannot check for a stop request: %s", error)
        return self._event.is_set()


class _LeftInTime:
    """Ends the attempt of this job when the time between SIGTERM and the kill is over."""

    def __init__(self, records: JobRecords) -> None:
        self._records = records
        self.work: LocalAttempt | None = None  # while it runs

    def leave(self) -> None:
        """Abort the attempt, write that it was stopped, and end the process. Called in a thread of its own."""
        work = self.work
        if work is None:  # it has ended, and the main thread writes how
            return
        reason = "it had not stopped when the time for it was over"
        if work.abort(reason):
            _put_outcome(self._records, JobOutcome(stopped=reason, progressed=work.progressed()))
        exit_now()


def _check_version(of_controller: str) -> None:
    """Raises: PrecheckError: the controller that submitted this job is of another version."""
    if of_controller and of_controller != version():
        raise PrecheckError(
            f"illume {version()} is on node {socket.gethostname()}, but {of_controller} submitted this job; "
            f"give the cluster's image, or environment, illume {of_controller}"
        )


def _plan(store: Store, digest: str) -> Plan:
    data = RunRecords(store).plan(digest)
    if data is None:
        raise RecipeError(f"plan {digest} is not in {store.url}; does the cluster see the controller's store there?")
    return plan_from_json(data, stage_kinds(), digest=digest)


def _request(plan: Plan, attempt: AttemptId, halvings: int, avoided_nodes: frozenset[str]) -> AttemptRequest:
    stages = {stage.id: stage for stage in plan.stages}
    planned = stages[attempt.stage_id]
    return AttemptRequest(
        planned=planned,
        inputs={slot: [stages[name] for name in ids] for slot, ids in planned.spec.inputs.items()},
        attempt=attempt,
        memory_halvings=halvings,
        avoided_nodes=avoided_nodes,
    )


def _run(
    request: AttemptRequest,
    logs: RunLogs,
    tracker: StoreTracker,
    cluster: Cluster,
    stop: "_StopFlag",
    left: "_LeftInTime",
) -> JobOutcome:
    store, scratch = logs.store, logs.state / "scratch"
    logs.make_folder()
    cache = cache_of_node(store.url)  # stays for the next stage on this node
    work = LocalAttempt(
        request=request,
        artifacts=ArtifactStore(store, cache),
        ledger=ShardLedger(store, cache),
        cluster=cluster,
        tracker=tracker,
        worker_logs=logs.of_workers(request.attempt.name, scratch),
        scratch=scratch,
        is_stop_requested=stop.is_set,
    )
    cluster.wait_for_nodes(stop.is_set)
    if not stop.is_set():
        check_room([request.planned], cluster)
    left.work = work
    try:
        artifact = work.run(lambda: log.info("%s is running", request.attempt))
    except CancelledError as error:
        progressed = work.progressed()
        work.abort(str(error))
        if stop.is_preempted():
            taken = classified(FailureClass.PREEMPTED, "the job's machines are taken away, or its time is over")
            return JobOutcome(failure=report_of(taken), progressed=progressed)
        return JobOutcome(stopped=str(error))
    except (Exception, SystemExit) as error:
        log.exception("%s failed", request.attempt)
        progressed = work.progressed()
        report = report_of(error)
        work.abort(report.summary[:500])
        return JobOutcome(failure=report, progressed=progressed)
    finally:
        left.work = None
        cluster.close()
        logs.finish(request.attempt.name, scratch)
    log.info("%s is committed as %s", request.attempt, artifact.fingerprint)
    return JobOutcome(progressed=True)


def _put_outcome(records: JobRecords, outcome: JobOutcome) -> None:
    """Write the outcome, which the controller waits for; retried for a minute while the store does not answer."""
    for wait_s in (1, 2, 4, 8, 16, 32, 0):
        try:
            records.put_outcome(outcome)
            return
        except StoreError as error:
            log.warning("the outcome cannot be written yet: %s", error)
            time.sleep(wait_s)
