"""What an engine that runs stages as jobs asks of a cluster: Ray Jobs, Slurm and others implement `JobLauncher`.

A job is one attempt at one stage: it runs `illume stage-driver` once. A cluster never starts a job again by itself: the
controller submits the next attempt, under another id, so that every write stays behind the fences of its attempt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self


class JobState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    PREEMPTED = "PREEMPTED"  # its machines were taken away, or its time is over; the next attempt goes on
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


ENDED = frozenset({JobState.STOPPED, JobState.PREEMPTED, JobState.SUCCEEDED, JobState.FAILED})


@dataclass(frozen=True, kw_only=True)
class JobSize:
    """What the workers of a stage need together, for a cluster that gives each job machines of its own."""

    workers: int = 1
    min_workers: int = 0  # the stage begins with these, where the others may come later; 0: only with all
    cpus: float = 1.0  # for each worker
    gpus: float = 0.0  # for each worker
    memory_gib: float = 0.0  # for each worker; 0: unstated
    machine: str = ""  # name of the profile's machine type; "": the first that can hold a worker


@dataclass(frozen=True, kw_only=True)
class JobInfo:
    state: JobState
    message: str  # why it waits, or how it ended
    by_person: bool = False  # a person has ended it beside us, whatever its stage driver was told


class JobLauncher(Protocol):
    """The jobs of one cluster. Every call raises NodeLostError if the cluster does not answer, and can be repeated."""

    def check(self) -> None:
        """Raises: PrecheckError: the cluster refuses us, or lacks what the profile names."""

    def sized(self, size: JobSize) -> Self:
        """The launcher of jobs of this size, where each job gets machines of its own."""

    def preview(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> str:
        """What `submit` would send, for a person to read. Raises: PrecheckError: the job cannot be sent."""

    def submit(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> None:
        """Start a job with the given id; does nothing if a job with this id exists, in any state.

        Raises: PrecheckError: the cluster refuses the job.
        """

    def info(self, job_id: str) -> JobInfo | None:
        """A job's state; None if the cluster has no such job."""

    def unfinished_jobs(self, run_id: str) -> list[str]:
        """Ids of the jobs of a run (by their metadata) that have not ended."""

    def stop(self, job_id: str) -> None:
        """Ask a job to end: SIGTERM, and a few seconds later SIGKILL."""

    def logs(self, job_id: str) -> str:
        """The job's output so far; "" if the cluster has no such job."""
