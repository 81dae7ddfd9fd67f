"""Who is alive: the driver of a run, and the work of its attempts. The one place that answers it.

Asked by status and doctor, cancel, takedown, the reservation of an artifact, retries, and garbage collection.
Rule: what does not answer may be alive. Only evidence ends something: a process that its own kernel does not know any
more, a lease that was released, an outcome in the store, a job that the cluster says has ended.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.artifact import ArtifactKey
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.jobs import ENDED, JobLauncher
from orchestrator.history import lease_owners as owners
from orchestrator.history.attempts import Attempt
from orchestrator.history.database.database import Database
from orchestrator.history.events import RunState
from orchestrator.history.leases import Leases
from orchestrator.history.open_attempts import attempt_names, find_attempt, open_attempts, run_state, run_states
from orchestrator.liveness.job_records import JobRecords, job_id_of, jobs_folder
from orchestrator.store.layout import RUNS
from orchestrator.store.store import Store
from orchestrator.times import iso_time

log = logging.getLogger(__name__)

UNFINISHED = (RunState.PLANNED, RunState.RUNNING, RunState.STOPPING)


class DriverState(StrEnum):
    ALIVE = "alive"
    FROZEN = "frozen"  # its process may exist, but does not renew its lease: stopped, or cut off
    # Frozen, and for `AWAY_AFTER_S` nothing was heard of its machine: most likely lost with it. It may come back.
    AWAY = "away"
    GONE = "gone"


class JobState(StrEnum):
    NONE = "none"  # the attempt runs in the process of its driver
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"  # no outcome, and the cluster does not answer or is not known here


AWAY_AFTER_S = 600.0  # by the database's clock; ten leases
MAY_WRITE = (JobState.RUNNING, JobState.UNKNOWN)


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The driver of a run, as its lease shows it."""

    state: DriverState
    who: str = ""  # for messages, e.g. `process 4711 on host7`; empty if it released the lease
    since: float | None = None  # FROZEN, GONE: its last renewal, seconds since 1970 by the database's clock
    machine: str = ""  # AWAY: its name; `since` is then when any of its processes renewed a lease for the last time


@dataclass(frozen=True, kw_only=True)
class AttemptLife:
    """An attempt that the history shows as open, or a job that the history does not know."""

    attempt: AttemptId
    key: ArtifactKey | None  # of the artifact that it makes; None: the history does not know it
    job: JobState
    may_write: bool  # work is going on, or may be


@dataclass(frozen=True, kw_only=True)
class RunLife:
    """A run with its driver and its open attempts."""

    run_id: str
    is_finished: bool  # by its state in the history; jobs of it may be running nevertheless
    driver: Driver
    attempts: tuple[AttemptLife, ...]

    @property
    def may_work(self) -> bool:
        """True while its driver may start or continue something, or one of its attempts may write."""
        has_driver = not self.is_finished and self.driver.state is not DriverState.GONE
        return has_driver or any(attempt.may_write for attempt in self.attempts)

    @property
    def jobs(self) -> list[AttemptLife]:
        """Its attempts that are, or may be, running as jobs."""
        return [attempt for attempt in self.attempts if attempt.job in MAY_WRITE]

    def describe(self) -> str:
        """For messages: `its driver is gone (process 4711 on host7), its job illume-r1-train-1-1 is running`."""
        who = f" ({self.driver.who})" if self.driver.who else ""
        parts = [f"its driver is {self.driver.state}{who}"]
        if self.driver.state is DriverState.AWAY and self.driver.since is not None:
            seen = f"machine {self.driver.machine} not seen since {iso_time(self.driver.since)}"
            parts = [f"its driver is gone ({seen})"]
        for attempt in self.jobs:
            state = "is running" if attempt.job is JobState.RUNNING else "may be running"
            parts.append(f"its job {job_id_of(attempt.attempt)} {state}")
        return ", ".join(parts)


def job_state(attempt: AttemptId, *, store: Store, jobs: JobLauncher | None) -> JobState:
    """State of an attempt's job. An outcome in the store is its end, whatever the cluster says."""
    records = JobRecords(store=store, attempt=attempt)
    if not records.is_announced():
        return JobState.NONE
    if records.outcome() is not None:
        return JobState.ENDED
    if jobs is None:
        return JobState.UNKNOWN
    try:
        info = jobs.info(job_id_of(attempt))
    except Exception as error:  # noqa: BLE001 - whatever prevents the answer, the job may be running
        log.debug("whether job %s is running is unknown: %s", job_id_of(attempt), error)
        return JobState.UNKNOWN
    if info is None or info.state in ENDED:
        return JobState.ENDED
    return JobState.RUNNING


@dataclass(frozen=True, kw_only=True)
class Liveness:
    """Answers who is alive, from leases, the records of jobs, and the cluster where one is known."""

    store: Store
    database: Database
    leases: Leases
    jobs: JobLauncher | None  # of the cluster at hand

    def driver(self, run_id: str) -> Driver:
        seen = self.leases.last_holder(f"run:{run_id}")
        if seen is None:
            return Driver(state=DriverState.GONE)
        who, renewed_at = owners.describe(seen.lease.owner), seen.lease.expires_at - seen.lease.duration_s
        if owners.is_gone(seen.lease.owner):
            return Driver(state=DriverState.GONE, who=who, since=renewed_at)
        if seen.is_expired or owners.is_stopped(seen.lease.owner):
            machine, age_s, at = self.leases.machine_seen(seen.lease.owner)
            if age_s >= AWAY_AFTER_S:  # 0 where the machine is this one, or not known
                return Driver(state=DriverState.AWAY, who=who, since=at, machine=machine)
            return Driver(state=DriverState.FROZEN, who=who, since=renewed_at)
        return Driver(state=DriverState.ALIVE, who=who)

    def job(self, attempt: AttemptId) -> JobState:
        """See `job_state`."""
        return job_state(attempt, store=self.store, jobs=self.jobs)

    def run(self, run_id: str) -> RunLife:
        """Raises: DatabaseError: there is no such run."""
        return self._run(run_id, run_state(self.database, run_id), open_attempts(self.database, run_id=run_id))

    def working_runs(self) -> list[RunLife]:
        """All runs that may change the store now, jobs included that the history does not know."""
        by_run: dict[str, list[Attempt]] = {}
        for attempt in open_attempts(self.database):
            by_run.setdefault(attempt.id.run_id, []).append(attempt)
        found = [
            self._run(run_id, state, by_run.get(run_id, []))
            for run_id, state in run_states(self.database).items()
            if state in UNFINISHED or run_id in by_run
        ]
        lives = [life for life in found if life.may_work]
        known = attempt_names(self.database)
        lives += [
            RunLife(run_id=job.attempt.run_id, is_finished=True, driver=Driver(state=DriverState.GONE), attempts=(job,))
            for job in self._unknown_jobs(known)
        ]
        return lives

    def runs_at_work(self) -> set[str]:
        """Ids of the runs that make something or may go on to: all that have not ended, with or without a driver, and
        those that have while a job of theirs may be running."""
        unfinished = {run_id for run_id, state in run_states(self.database).items() if state in UNFINISHED}
        others = [attempt for attempt in open_attempts(self.database) if attempt.id.run_id not in unfinished]
        return unfinished | {attempt.id.run_id for attempt in others if self.job(attempt.id) in MAY_WRITE}

    def reserved_artifacts(self) -> set[str]:
        """Fingerprints of the artifacts that a run is making, or was making when it was interrupted."""
        return {resource.removeprefix("artifact:") for resource in self.leases.unreleased("artifact:")}

    def jobs_at(self, key: ArtifactKey, *, but_run: str) -> list[RunLife]:
        """Other runs whose jobs may be making an artifact, each with one such job only."""
        lives = []
        for attempt in open_attempts(self.database, key=key):
            run_id = attempt.id.run_id
            if run_id != but_run:
                lives.append(self._run(run_id, run_state(self.database, run_id), [attempt]))
        return [life for life in lives if life.jobs]

    def may_write(self, attempt_id: str) -> bool:
        """True while the attempt may still write: as a job, or in a driver that holds the lease of its run."""
        attempt = find_attempt(self.database, attempt_id)
        if attempt is None:
            return any(job.attempt.name == attempt_id for job in self._unknown_jobs(frozenset(), attempt_id))
        if not attempt.is_open:
            return False
        return self._attempt(attempt, self.driver(attempt.id.run_id)).may_write

    def _run(self, run_id: str, state: RunState, attempts: list[Attempt]) -> RunLife:
        driver = self.driver(run_id)
        return RunLife(
            run_id=run_id,
            is_finished=state not in UNFINISHED,
            driver=driver,
            attempts=tuple(self._attempt(attempt, driver) for attempt in attempts),
        )

    def _attempt(self, attempt: Attempt, driver: Driver) -> AttemptLife:
        job = self.job(attempt.id)
        in_driver = job is JobState.NONE and driver.state is not DriverState.GONE
        may_write = in_driver or job in MAY_WRITE
        return AttemptLife(attempt=attempt.id, key=attempt.key, job=job, may_write=may_write)

    def _unknown_jobs(self, known: frozenset[str], only: str = "") -> Iterator[AttemptLife]:
        """Jobs in the store without an outcome that are not `known`; of one attempt if `only` is given."""
        for run_id in self.store.folders(RUNS):
            if only and not only.startswith(f"{run_id}-"):
                continue
            for name in [only] if only else self.store.folders(jobs_folder(run_id)):
                attempt = AttemptId(run_id=run_id, stage_id="", epoch=0, name=name)
                if name in known:
                    continue
                job = self.job(attempt)
                if job in MAY_WRITE:
                    yield AttemptLife(attempt=attempt, key=None, job=job, may_write=True)
