"""Makes this process the driver of a run: its lease, its epoch, and what the last driver left open.

A run has one driver at a time, guarded by the run's lease and by its epoch in the store.
"""

import logging
import threading
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from orchestrator.artifact import JSON, Artifact
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.run_epochs import EpochGuard, RunEpochs
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.cluster.ray_jobs import ENDED, RayJobs
from orchestrator.errors import (
    DatabaseError,
    LeaseLostError,
    NodeLostError,
    PrecheckError,
)
from orchestrator.execution.gates import broken_gates
from orchestrator.execution.job_attempt import job_id_of
from orchestrator.execution.job_records import JobRecords
from orchestrator.execution.run_logs import RunLogs
from orchestrator.execution.run_loop import RunLoop
from orchestrator.execution.stage_run import RunTools
from orchestrator.failures.failure_class import FailureClass
from orchestrator.history import lease_owners as owners
from orchestrator.history.attempts import Attempt
from orchestrator.history.events import AttemptState
from orchestrator.history.leases import Lease, LeaseKeeper, Leases
from orchestrator.history.run_store import RunStore
from orchestrator.planning.plan import Plan, PlannedStage, upstream_ids
from orchestrator.planning.plan_file import plan_digest

log = logging.getLogger(__name__)


class Executor:
    """Runs plans with one store, one database and one cluster."""

    def __init__(
        self,
        *,
        artifacts: ArtifactStore,
        history: RunStore,
        leases: Leases,
        cluster: Cluster,
        state: Path,  # local folder for scratch files, and for logs where the store is remote
    ) -> None:
        self._artifacts, self._history, self._leases, self._cluster = artifacts, history, leases, cluster
        self._state = state
        self._ledger = ShardLedger(artifacts.store, artifacts.cache)

    def check(self, plan: Plan) -> None:
        """Check what can be checked before any work starts.

        Raises:
            PrecheckError: a stage asks for more GPUs than exist, an artifact that the plan reuses is gone or breaks a
                gate, or the cluster refuses access.
            NodeLostError: the cluster does not answer.
        """
        if self._cluster.jobs is not None:
            self._cluster.jobs.check()
        wanted = {stage.id: stage.spec.resources.gpus for stage in plan.to_run if stage.spec.resources.gpus}
        available = self._cluster.gpus() if wanted else 0.0
        for stage_id, gpus in wanted.items():
            if gpus > available:
                raise PrecheckError(
                    f"stages.{stage_id}.resources.gpus: found {gpus:g} for each worker, but there are {available:g} in "
                    "all; set it to 0 or use a cluster with GPUs"
                )
        for stage in plan.stages:
            if stage.action == "reuse" and stage.spec.gates:
                self._check_gates(stage)
        needed = {name for stage in plan.to_run for name in upstream_ids(stage.spec)}
        for stage in plan.stages:
            if stage.action == "reuse" and stage.id in needed:
                self._check_exists(stage)

    def _check_gates(self, stage: PlannedStage) -> None:
        """Check the gates on an existing artifact, as they may be newer than the artifact."""
        manifest = self._artifacts.find(stage.key)
        errors, warnings = broken_gates(stage.spec, manifest.metrics if manifest else {})
        for sentence in warnings:
            log.warning("%s, which is reused: %s", stage.id, sentence)
        if errors:
            raise PrecheckError(f"stages.{stage.id}, which would be reused: {'; '.join(errors)}")

    def _check_exists(self, stage: PlannedStage) -> None:
        if self._artifacts.find(stage.key) is None:
            raise PrecheckError(
                f"stages.{stage.id}: the plan reuses {stage.fingerprint[:12]}, which is not in the store any more; "
                "make a new plan with `illume run`"
            )

    def run(
        self,
        plan: Plan,
        run_id: str,
        *,
        stop: threading.Event | None = None,
        detached: threading.Event | None = None,
    ) -> dict[str, Artifact]:
        """Run a plan; returns the artifacts of the stages that it ran, by stage id.

        Set `stop` to stop cleanly; set `detached` before it to leave the jobs running that this process follows. The
        run must exist in the history.

        Raises:
            LeaseLostError: another driver runs it, or took it over.
            StageFailedError: stages failed for good; the others ran as far as possible.
            CancelledError: stopped by `stop` or by a cancel request; `illume resume` continues.
            PrecheckError: see `check`.
        """
        self.check(plan)
        epochs = RunEpochs(store=self._artifacts.store, run_id=run_id)
        self._pass_claimed_epochs(epochs)
        lease = self._leases.acquire(f"run:{run_id}")
        if lease is None:
            holder = self._leases.holder(f"run:{run_id}")
            who = owners.describe(holder.owner) if holder else "another driver"
            raise LeaseLostError(
                f"run {run_id}: {who} is running it; watch it with `illume status {run_id}`, stop it with "
                f"`illume cancel {run_id}`"
            )
        with LeaseKeeper(self._leases) as keeper:
            try:
                epochs.claim(lease.epoch, owner=owners.describe(lease.owner))
                guard = EpochGuard(epochs=epochs, epoch=lease.epoch)
                stop, detached = stop or threading.Event(), detached or threading.Event()
                with self._waiting_for_database(stop):
                    return self._run_with_lease(plan, run_id, lease, keeper, guard, stop, detached)
            finally:
                _release(keeper, lease)

    def _pass_claimed_epochs(self, epochs: RunEpochs) -> None:
        """Let the next epoch be above all that the store knows, even if the database came back older."""
        newest = epochs.newest()
        known = self._leases.raise_epoch(f"run:{epochs.run_id}", newest) if newest else 0
        if known < newest:
            log.warning(
                "run %s: the store knows its epoch %d (%s), the database only %d; is it an older copy? Going on above",
                epochs.run_id,
                newest,
                epochs.key(newest),
                known,
            )

    def _waiting_for_database(self, stop: threading.Event) -> AbstractContextManager[None]:
        """While stages are jobs, wait for a lost database for as long as nobody wants this driver to end."""
        if self._cluster.jobs is None:
            return nullcontext()
        return self._history.waiting_longer(lambda: not stop.is_set())

    def _run_with_lease(
        self,
        plan: Plan,
        run_id: str,
        lease: Lease,
        keeper: LeaseKeeper,
        guard: EpochGuard,
        stop: threading.Event,
        detached: threading.Event,
    ) -> dict[str, Artifact]:
        def on_lost(_lease: Lease) -> None:
            detached.set()  # first: whoever sees `stop` must know that nobody asked for it
            stop.set()

        lost = keeper.keep(lease, on_lost, until_taken=self._cluster.jobs is not None)
        epoch = self._history.begin_epoch(run_id, lease)
        surviving_attempts = self._settle_open_attempts(run_id, epoch, guard)
        tools = RunTools(
            run_id=run_id,
            plan_digest=plan_digest(plan),
            epoch=epoch,
            artifacts=self._artifacts,
            ledger=self._ledger,
            history=self._history,
            leases=self._leases,
            keeper=keeper,
            cluster=self._cluster,
            logs=RunLogs(store=self._artifacts.store, state=self._state, run_id=run_id),
            scratch=self._state / "scratch",
            guard=guard,
            stop=stop,
            detached=detached,
            surviving_attempts=surviving_attempts,
        )
        return RunLoop(plan, tools, lost).run()

    def _settle_open_attempts(self, run_id: str, epoch: int, guard: EpochGuard) -> dict[str, Attempt]:
        """Record the state of the attempts that the last driver left open: committed, or lost with it.

        Those that are lost are aborted in the store first, as a process of them may be alive somewhere.

        Returns, by stage id, those that are still running as jobs of the cluster.
        Raises: NodeLostError: the cluster does not answer.
        """
        surviving_attempts = {}
        for attempt in self._history.open_attempts(run_id):
            if self._is_job_alive(attempt):
                surviving_attempts[attempt.id.stage_id] = attempt
                continue
            guard.check()
            is_aborted = self._artifacts.abort_attempt(attempt.key, attempt.id.name, reason="its driver ended")
            artifact = None if is_aborted else self._committed(attempt)
            if artifact is not None:
                new, fields = AttemptState.COMMITTED, dict[str, JSON]()
            else:
                new = AttemptState.LOST
                fields = {"failure_class": FailureClass.CONTROLLER_LOST, "message": "its driver ended"}
            self._history.transition_attempt(
                attempt.id.name, attempt.state, new, epoch=epoch, fields=fields, artifact=artifact
            )
        if self._cluster.jobs is not None:
            known = {job_id_of(attempt.id) for attempt in surviving_attempts.values()}
            guard.check()
            _stop_orphaned_jobs(self._cluster.jobs, run_id, known)
        return surviving_attempts

    def _is_job_alive(self, attempt: Attempt) -> bool:
        """True if the attempt is a job that is still running, or that left an outcome that is not recorded yet."""
        records = JobRecords(store=self._artifacts.store, attempt=attempt.id)
        if not records.is_announced():
            return False
        if records.outcome() is not None:
            return True
        if self._cluster.jobs is None:
            raise NodeLostError(
                f"attempt {attempt.id} is running as a job of a Ray cluster; continue the run with the profile "
                "that it was started with (`--cluster`)"
            )
        info = self._cluster.jobs.info(job_id_of(attempt.id))
        # Read the outcome again: the job may have ended just now.
        return info is not None and (info.state not in ENDED or records.outcome() is not None)

    def _committed(self, attempt: Attempt) -> Artifact | None:
        stored = self._artifacts.stored(attempt.key)
        if stored is None or stored.commit.attempt != attempt.id.name:
            return None
        return self._artifacts.open(attempt.key)


def _release(keeper: LeaseKeeper, lease: Lease) -> None:
    try:
        keeper.release(lease)
    except DatabaseError as error:  # it expires by itself; the error that ended the run matters more
        log.warning("lease %s: not released: %s", lease.resource, error)


def _stop_orphaned_jobs(jobs: RayJobs, run_id: str, known: Collection[str]) -> None:
    """Stop jobs of attempts that have ended: an attempt can be aborted while the cluster does not answer."""
    for job_id in jobs.unfinished_jobs(run_id):
        if job_id not in known:
            log.warning("run %s: job %s is still running for an attempt that has ended; stopping it", run_id, job_id)
            jobs.stop(job_id)
