"""Makes this process the driver of a run: its lease, its epoch, and what the last driver left open.

A run has one driver at a time, guarded by the run's lease and by its epoch in the store.
"""

import logging
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from pathlib import Path

from orchestrator import failpoints
from orchestrator.artifact import Artifact
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.run_epochs import EpochGuard
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.errors import (
    DatabaseError,
    LeaseLostError,
    PrecheckError,
)
from orchestrator.execution.admission import admission_of
from orchestrator.execution.gates import broken_gates
from orchestrator.execution.room import check_room
from orchestrator.execution.run_loop import RunLoop
from orchestrator.execution.stage_run import RunTools
from orchestrator.execution.stop_events import StopEvents
from orchestrator.execution.takeover import Takeover
from orchestrator.history import lease_owners as owners
from orchestrator.history.events import AttemptState
from orchestrator.history.leases import Lease, LeaseKeeper, Leases
from orchestrator.history.run_store import RunStore
from orchestrator.liveness.liveness import Liveness
from orchestrator.logs.run_logs import RunLogs
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
        self._liveness = Liveness(store=artifacts.store, database=history.database, leases=leases, jobs=cluster.jobs)
        self._takeover = Takeover(artifacts=artifacts, history=history, leases=leases, liveness=self._liveness)

    def check(self, plan: Plan) -> None:
        """Check what can be checked before any work starts.

        Raises:
            PrecheckError: a stage can never get its CPUs, GPUs or memory, an artifact that the plan reuses is gone or
                breaks a gate, or the cluster refuses access.
            NodeLostError: the cluster does not answer.
        """
        if self._cluster.jobs is not None:
            self._cluster.jobs.check()
        check_room(plan.to_run, self._cluster)
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
        stops: StopEvents | None = None,
    ) -> dict[str, Artifact]:
        """Run a plan; returns the artifacts of the stages that it ran, by stage id.

        Set the events of `stops` to stop cleanly, or to leave the jobs running that this process follows. The run must
        exist in the history.

        Raises:
            LeaseLostError: another driver runs it, or took it over.
            StageFailedError: stages failed for good; the others ran as far as possible.
            CancelledError: stopped by `stop` or by a cancel request; `illume resume` continues.
            PrecheckError: see `check`.
        """
        self.check(plan)
        lease = self._takeover.acquire(run_id)
        if lease is None:
            holder = self._leases.holder(f"run:{run_id}")
            who = owners.describe(holder.owner) if holder else "another driver"
            raise LeaseLostError(
                f"run {run_id}: {who} is running it; watch it with `illume status {run_id}`, stop it with "
                f"`illume cancel {run_id}`"
            )
        with LeaseKeeper(self._leases) as keeper:
            try:
                guard = self._takeover.claim(run_id, lease)
                stops = stops or StopEvents()
                with self._waiting_for_database(stops.stop):
                    return self._run_with_lease(plan, run_id, lease, keeper, guard, stops)
            finally:
                _release(keeper, lease)

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
        stops: StopEvents,
    ) -> dict[str, Artifact]:
        def on_lost(_lease: Lease) -> None:
            stops.detached.set()  # first: whoever sees `stop` must know that nobody asked for it
            stops.stop.set()

        lost = keeper.keep(lease, on_lost, until_taken=self._cluster.jobs is not None)
        epoch = self._history.begin_epoch(run_id, lease)
        failpoints.hit("epoch.begun")
        surviving_attempts = self._takeover.settle(run_id, epoch, guard, jobs=self._cluster.jobs)
        tools = RunTools(
            run_id=run_id,
            plan_digest=cache(partial(plan_digest, plan)),
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
            stop=stops.stop,
            detached=stops.detached,
            out_of_time=stops.out_of_time,
            end_attempt=partial(self._takeover.end_attempt, epoch=epoch, state=AttemptState.CANCELLED),
            surviving_attempts=surviving_attempts,
            liveness=self._liveness,
            admission=admission_of(
                run_id,
                self._history.database,
                self._cluster,
                now=time.time(),
                with_gpus=any(stage.spec.resources.gpus for stage in plan.to_run),
            ),
        )
        return RunLoop(plan, tools, lost).run()


def _release(keeper: LeaseKeeper, lease: Lease) -> None:
    try:
        keeper.release(lease)
    except DatabaseError as error:  # it expires by itself; the error that ended the run matters more
        log.warning("lease %s: not released: %s", lease.resource, error)
