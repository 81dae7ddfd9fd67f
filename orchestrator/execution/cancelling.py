"""Stops a run, whether it has a driver or not.

A living driver reads the request in the database. Jobs read the stop request in the store, which counts only from the
run's newest epoch; so a run without a driver is taken over, and what no process can end any more is ended here.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from orchestrator.artifacts.run_epochs import EpochGuard
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import DatabaseError
from orchestrator.execution.takeover import Takeover
from orchestrator.history.attempts import Attempt
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.leases import Lease, LeaseKeeper
from orchestrator.liveness.job_records import JobRecords, job_id_of
from orchestrator.liveness.liveness import DriverState, JobState, RunLife

log = logging.getLogger(__name__)

POLL_S = 1.0
MAX_POLLS_TO_BEGIN = 10


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """What a cancel has reached."""

    end: Literal["asked", "cancelled", "stopping"]  # stopping: without a driver, and jobs that have not ended yet
    life: RunLife  # as it was found
    jobs: tuple[str, ...] = ()  # ids of the jobs that were asked to stop and have not ended yet


def cancel_run(
    takeover: Takeover, run_id: str, *, patience_s: float = 0.0, sleep: Callable[[float], None] = time.sleep
) -> Cancellation:
    """Stop a run at its next commit point: ask its driver, or without one end what it left.

    `patience_s`: how long to wait for jobs to stop where no driver does it.

    Raises:
        DatabaseError: there is no such run.
        StateConflictError: it has ended, and none of its jobs is running.
    """
    life = takeover.liveness.run(run_id)
    if life.is_finished and not life.attempts:
        takeover.history.request_cancel(run_id)  # says how it ended
    if life.driver.state is not DriverState.ALIVE or life.is_finished:
        lease = takeover.acquire(run_id)
        if lease is not None:
            return _without_driver(takeover, life, lease, patience_s, sleep)
        life = _life_once_begun(takeover, run_id, sleep)
    takeover.history.request_cancel(run_id)
    epoch = takeover.epochs(run_id).newest()
    for attempt in life.jobs:  # at once, as the driver may be one that is frozen
        _records(takeover, attempt.attempt, epoch).request_stop()
    return Cancellation(end="asked", life=life)


def _life_once_begun(takeover: Takeover, run_id: str, sleep: Callable[[float], None]) -> RunLife:
    """The life of a run that another driver has just taken: until it has begun, the run looks as it ended before."""
    for _ in range(MAX_POLLS_TO_BEGIN):
        life = takeover.liveness.run(run_id)
        if not life.is_finished or life.driver.state is not DriverState.ALIVE:
            return life
        sleep(POLL_S)
    return takeover.liveness.run(run_id)


def _without_driver(
    takeover: Takeover, life: RunLife, lease: Lease, patience_s: float, sleep: Callable[[float], None]
) -> Cancellation:
    run_id, history = life.run_id, takeover.history
    with LeaseKeeper(takeover.leases) as keeper:
        try:
            guard = takeover.claim(run_id, lease)
            keeper.keep(lease)
            epoch = history.begin_epoch(run_id, lease)
            history.request_cancel(run_id)
            history.transition_run(run_id, RunState.RUNNING, RunState.STOPPING, epoch=epoch)
            left = _stop_attempts(takeover, life, guard, patience_s, sleep)
            if not left:
                message = f"cancelled while its driver was {life.driver.state}; `illume resume {run_id}` continues"
                history.transition_run(
                    run_id, RunState.STOPPING, RunState.CANCELLED, epoch=epoch, fields={"message": message}
                )
        finally:
            try:
                keeper.release(lease)
            except DatabaseError as error:  # it expires by itself
                log.warning("lease %s: not released: %s", lease.resource, error)
    jobs = tuple(job_id_of(attempt.id) for attempt in left)
    return Cancellation(end="stopping" if left else "cancelled", life=life, jobs=jobs)


def _stop_attempts(
    takeover: Takeover, life: RunLife, guard: EpochGuard, patience_s: float, sleep: Callable[[float], None]
) -> list[Attempt]:
    """End all open attempts; returns those whose jobs have not ended within `patience_s`."""
    left = takeover.history.open_attempts(life.run_id)
    for attempt in left:  # a request of an epoch that is not the newest counts for nothing
        if takeover.liveness.job(attempt.id) is not JobState.NONE:
            _records(takeover, attempt.id, guard.epoch).request_stop()
    waited_s = 0.0
    while True:
        left = [attempt for attempt in left if not _end_if_over(takeover, attempt, guard)]
        if not left or waited_s >= patience_s:
            return left
        sleep(POLL_S)
        waited_s += POLL_S


def _end_if_over(takeover: Takeover, attempt: Attempt, guard: EpochGuard) -> bool:
    """Record the end of an attempt whose job has ended, or that ran in its driver; False: its job is not over yet."""
    state = takeover.liveness.job(attempt.id)
    if state in (JobState.RUNNING, JobState.UNKNOWN):
        return False
    guard.check()
    outcome = _records(takeover, attempt.id, guard.epoch).outcome() if state is JobState.ENDED else None
    if outcome is not None and outcome.failure is not None:
        failure, message = str(outcome.failure.failure), outcome.failure.summary
        takeover.end_attempt(
            attempt, epoch=guard.epoch, state=AttemptState.FAILED, message=message, failure_class=failure
        )
    else:
        message = outcome.stopped if outcome is not None and outcome.stopped else "cancelled"
        takeover.end_attempt(attempt, epoch=guard.epoch, state=AttemptState.CANCELLED, message=message)
    return True


def _records(takeover: Takeover, attempt: AttemptId, epoch: int) -> JobRecords:
    of_epoch = AttemptId(run_id=attempt.run_id, stage_id=attempt.stage_id, epoch=epoch, name=attempt.name)
    return JobRecords(store=takeover.artifacts.store, attempt=of_epoch)
