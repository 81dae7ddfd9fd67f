"""`illume stage-driver`: one attempt of one stage, as a job of a Ray cluster. Controllers submit it; people do not."""

import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click

from clusters.connect import cluster_of_this_job
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.commands.shared.options import stage_kinds
from orchestrator.errors import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_REQUEUE,
    CancelledError,
    OrchestratorError,
    RecipeError,
    StoreError,
)
from orchestrator.execution.job_records import JobOutcome, JobRecords, StoreTracker
from orchestrator.execution.local_attempt import Order, StageWork
from orchestrator.execution.run_logs import LOG_FORMAT, RunLogs
from orchestrator.failures.classes import INFRASTRUCTURE, report_of
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_from_json
from orchestrator.store.store import Store, open_store

log = logging.getLogger(__name__)

STOP_POLL_S = 1.0  # how often the store is asked for the controller's wish to stop


@click.command("stage-driver", hidden=True)
@click.argument("run_id")
@click.argument("stage_id")
@click.argument("attempt_id")
@click.option("--plan", "digest", required=True)
@click.option("--epoch", type=int, required=True)
@click.option("--memory-halvings", type=int, default=0)
@click.option("--store", required=True)
def stage_driver_command(
    run_id: str, stage_id: str, attempt_id: str, digest: str, epoch: int, memory_halvings: int, store: str
) -> int:
    """Carry out one attempt of one stage and leave its outcome in the store."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stdout, force=True)
    opened = open_store(store)
    records = JobRecords(store=opened, run_id=run_id, attempt_id=attempt_id)
    stop = _Stop(records)
    with tempfile.TemporaryDirectory(prefix="illume-stage-") as folder, StoreTracker(records, log.warning) as tracker:
        try:
            order = _order(_plan(opened, digest), stage_id, run_id, attempt_id, epoch, memory_halvings)
            outcome = _carry_out(order, opened, tracker, cluster_of_this_job(), Path(folder), stop.is_set)
        except OrchestratorError as error:  # before any work
            log.error("%s", error)
            outcome = JobOutcome(failure=report_of(error))
    _leave(records, outcome)
    if outcome.stopped:
        return EXIT_REQUEUE
    if outcome.failure is None:
        return 0
    return EXIT_INFRASTRUCTURE if outcome.failure.failure in INFRASTRUCTURE else EXIT_FAILED


class _Stop:
    """Set by SIGTERM, or when the controller asks for it through the store."""

    def __init__(self, records: JobRecords) -> None:
        self._records, self._event = records, threading.Event()
        self._asked_at = 0.0
        signal.signal(signal.SIGTERM, lambda _number, _frame: self._event.set())

    def is_set(self) -> bool:
        if not self._event.is_set() and time.monotonic() - self._asked_at >= STOP_POLL_S:
            self._asked_at = time.monotonic()
            try:
                if self._records.is_stop_asked():
                    self._event.set()
            except StoreError as error:
                log.warning("cannot see whether to stop: %s", error)
        return self._event.is_set()


def _plan(store: Store, digest: str) -> Plan:
    data = RunRecords(store).plan(digest)
    if data is None:
        raise RecipeError(f"plan {digest} is not in {store.url}; does the cluster see the controller's store there?")
    return plan_from_json(data, stage_kinds(), digest=digest)


def _order(plan: Plan, stage_id: str, run_id: str, attempt_id: str, epoch: int, halvings: int) -> Order:
    stages = {stage.id: stage for stage in plan.stages}
    planned = stages[stage_id]
    return Order(
        planned=planned,
        inputs={slot: [stages[name] for name in ids] for slot, ids in planned.spec.inputs.items()},
        run_id=run_id,
        attempt_id=attempt_id,
        epoch=epoch,
        memory_halvings=halvings,
    )


def _carry_out(
    order: Order, store: Store, tracker: StoreTracker, cluster: Cluster, folder: Path, stopped: Callable[[], bool]
) -> JobOutcome:
    logs = RunLogs(store=store, state=folder, run_id=order.run_id)  # of workers; ours goes where the job's output goes
    log_stem = logs.stem(order.attempt_id)
    log_stem.parent.mkdir(parents=True, exist_ok=True)
    work = StageWork(
        order=order,
        artifacts=ArtifactStore(store, folder / "cache"),
        ledger=ShardLedger(store, folder / "cache"),
        cluster=cluster,
        tracker=tracker,
        log_stem=log_stem,
        scratch=folder / "scratch",
        stopped=stopped,
    )
    try:
        artifact = work.carry_out(lambda: log.info("%s is at work", order.attempt_id))
    except CancelledError as error:
        work.abandon(str(error))
        return JobOutcome(stopped=str(error))
    except (Exception, SystemExit) as error:
        log.exception("%s failed", order.attempt_id)
        progressed = work.progressed()
        report = report_of(error)
        work.abandon(report.summary[:500])
        return JobOutcome(failure=report, progressed=progressed)
    finally:
        cluster.close()
        logs.keep(log_stem)
    log.info("%s is committed as %s", order.attempt_id, artifact.fingerprint)
    return JobOutcome(progressed=True)


def _leave(records: JobRecords, outcome: JobOutcome) -> None:
    """The controller waits for it, so a store that is away for a while is waited for."""
    for wait_s in (1, 2, 4, 8, 16, 32, 0):
        try:
            records.put_outcome(outcome)
            return
        except StoreError as error:
            log.warning("the outcome cannot be left yet: %s", error)
            time.sleep(wait_s)
