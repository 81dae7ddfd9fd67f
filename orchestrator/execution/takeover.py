"""Takes a run over from the driver before: the lease, the epoch, and what that driver left open.

Used by the driver that continues a run, and by a cancel that finds no driver to ask.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.artifact import JSON, Artifact
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.run_epochs import EpochGuard, RunEpochs
from orchestrator.cluster.jobs import JobLauncher
from orchestrator.errors import NodeLostError
from orchestrator.failures.failure_class import FailureClass
from orchestrator.history import lease_owners as owners
from orchestrator.history.attempts import Attempt
from orchestrator.history.events import AttemptState
from orchestrator.history.leases import Lease, Leases
from orchestrator.history.run_store import RunStore
from orchestrator.liveness.job_records import JobRecords, job_id_of
from orchestrator.liveness.liveness import JobState, Liveness

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Takeover:
    """Takes runs over with one store and one database."""

    artifacts: ArtifactStore
    history: RunStore
    leases: Leases
    liveness: Liveness

    def acquire(self, run_id: str) -> Lease | None:
        """The run's lease, with an epoch above all that the store knows; None while another driver holds it."""
        epochs = self.epochs(run_id)
        newest = epochs.newest()
        if newest and (known := self.leases.raise_epoch(f"run:{run_id}", newest)) < newest:
            log.warning(
                "run %s: the store knows its epoch %d (%s), the database only %d; is it an older copy? Going on above",
                run_id,
                newest,
                epochs.key(newest),
                known,
            )
        return self.leases.acquire(f"run:{run_id}")

    def claim(self, run_id: str, lease: Lease) -> EpochGuard:
        """Claim the lease's epoch in the store. Raises: LeaseLostError: another driver has it, or a newer one."""
        epochs = self.epochs(run_id)
        epochs.claim(lease.epoch, owner=owners.describe(lease.owner))
        return EpochGuard(epochs=epochs, epoch=lease.epoch)

    def epochs(self, run_id: str) -> RunEpochs:
        return RunEpochs(store=self.artifacts.store, run_id=run_id)

    def settle(self, run_id: str, epoch: int, guard: EpochGuard, *, jobs: JobLauncher | None) -> dict[str, Attempt]:
        """Record the state of the attempts that the last driver left open: committed, or lost with it.

        Those that are lost are aborted in the store first, as a process of them may be alive somewhere.

        Returns, by stage id, those that are still running as jobs of the cluster.
        Raises: NodeLostError: the cluster does not answer.
        """
        surviving_attempts = {}
        for attempt in self.history.open_attempts(run_id):
            if self._is_job_alive(attempt):
                surviving_attempts[attempt.id.stage_id] = attempt
            else:
                guard.check()
                self.end_attempt(attempt, epoch=epoch)
        if jobs is not None:
            known = {job_id_of(attempt.id) for attempt in surviving_attempts.values()}
            guard.check()
            _stop_orphaned_jobs(jobs, run_id, known)
        return surviving_attempts

    def end_attempt(
        self,
        attempt: Attempt,
        *,
        epoch: int,
        state: AttemptState = AttemptState.LOST,
        message: str = "its driver ended",
        failure_class: str = FailureClass.CONTROLLER_LOST,  # recorded unless the attempt was cancelled
    ) -> None:
        """Abort an open attempt in the store and record it: in `state`, or as committed if it was faster."""
        is_aborted = self.artifacts.abort_attempt(attempt.key, attempt.id.name, reason=message)
        artifact = None if is_aborted else self._committed(attempt)
        fields: dict[str, JSON] = {} if artifact is not None else {"message": message}
        if artifact is None and state is not AttemptState.CANCELLED:
            fields["failure_class"] = failure_class
        new = state if artifact is None else AttemptState.COMMITTED
        self.history.transition_attempt(
            attempt.id.name, attempt.state, new, epoch=epoch, fields=fields, artifact=artifact
        )

    def _is_job_alive(self, attempt: Attempt) -> bool:
        """True if the attempt is a job that is still running, or that left an outcome that is not recorded yet."""
        state = self.liveness.job(attempt.id)
        if state is JobState.UNKNOWN and self.liveness.jobs is None:
            raise NodeLostError(
                f"attempt {attempt.id} is running as a job of a Ray cluster; continue the run with the profile "
                "that it was started with (`--cluster`)"
            )
        if state is JobState.UNKNOWN:
            raise NodeLostError(
                f"attempt {attempt.id} was started as a job, and the cluster does not say whether it is running; "
                "try again once it answers"
            )
        if state is JobState.ENDED:
            return JobRecords(store=self.artifacts.store, attempt=attempt.id).outcome() is not None
        return state is JobState.RUNNING

    def _committed(self, attempt: Attempt) -> Artifact | None:
        stored = self.artifacts.stored(attempt.key)
        if stored is None or stored.commit.attempt != attempt.id.name:
            return None
        return self.artifacts.locate(attempt.key)


def _stop_orphaned_jobs(jobs: JobLauncher, run_id: str, known: Collection[str]) -> None:
    """Stop jobs of attempts that have ended: an attempt can be aborted while the cluster does not answer."""
    for job_id in jobs.unfinished_jobs(run_id):
        if job_id not in known:
            log.warning("run %s: job %s is still running for an attempt that has ended; stopping it", run_id, job_id)
            jobs.stop(job_id)
