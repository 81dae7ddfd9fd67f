"""Stages as Slurm jobs, through sbatch, squeue, scontrol and scancel.

A job is found again by its name, which is that of its attempt, and by its folder: Slurm forgets jobs minutes after
their end, so the batch script writes how it ended. A job that was killed with its node writes nothing; it is known to
have ended because Slurm does not list it any more.
"""

import os
import re
import secrets
import shlex
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import jinja2

from clusters.allocation import NODES_VARIABLE, allocate
from clusters.grace import with_grace
from clusters.slurm.config import SlurmProfile
from orchestrator.cluster.jobs import JobInfo, JobSize, JobState
from orchestrator.errors import EXIT_REQUEUE, NodeLostError, PrecheckError

COMMAND_TIMEOUT_S = 30.0
_LISTED_FOR_S = 2.0  # a listing answers all questions for this long
_OBJECT_STORE_BYTES = 300_000_000  # it carries records and metrics, not data
_LOG_BYTES = 4_000_000  # of the end of a job's output
_WAITING = frozenset(
    {"PENDING", "CONFIGURING", "POWER_UP_NODE", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"}
    | {"SPECIAL_EXIT", "SUSPENDED"}
)
# Whatever else Slurm says, words of later versions included, may be running.
_ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
    | {"PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"}
)
_TAKEN = frozenset({"PREEMPTED", "TIMEOUT", "DEADLINE"})
_REFUSED = re.compile(r"invalid|not permitted|violates|exceeds|unavailable|not available|no such|denied", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Listed:
    slurm_id: str
    state: str
    reason: str
    run_id: str


@dataclass(kw_only=True)
class _Listing:
    """The newest answer of squeue, for all jobs of this user by name."""

    taken_at: float = -1e9
    jobs: dict[str, list[_Listed]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, kw_only=True)
class SlurmJobs:
    """The jobs of one Slurm cluster. Every call raises NodeLostError if Slurm does not answer, and can be repeated."""

    profile: SlurmProfile
    size: JobSize = field(default_factory=JobSize)
    _listing: _Listing = field(default_factory=_Listing, repr=False, compare=False)

    def check(self) -> None:
        """Raises: PrecheckError: a partition does not exist, or the folder cannot be written."""
        folder = Path(self.profile.folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PrecheckError(f"folder: {folder} cannot be made: {error.strerror}; all nodes must see it") from error
        if not os.access(folder, os.W_OK):
            raise PrecheckError(f"folder: {folder} cannot be written; all nodes must see it, and you must own it")
        known = set(self._run("sinfo", "--noheader", "--format=%R").split())
        for name, machine in self.profile.machines.items():
            if machine.partition and machine.partition not in known:
                raise PrecheckError(
                    f"machines.{name}.partition: Slurm has no {machine.partition!r}; it has {', '.join(sorted(known))}"
                )

    def sized(self, size: JobSize) -> Self:
        return replace(self, size=size)

    def submit(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> None:
        """Raises: PrecheckError: no machine type holds a worker, or Slurm refuses account, QOS or limits."""
        if self.info(job_id) is not None:
            return
        folder = self._folder(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        _write_token(folder / "token")
        script = folder / "job.sbatch"
        script.write_text(self.preview(job_id, arguments, metadata))
        options = [*self.profile.options, str(script)]
        try:
            self._run("sbatch", "--test-only", *options)
            self._run("sbatch", "--parsable", *options)
        finally:
            self._forget_listing()

    def preview(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> str:
        """The batch script of a job. Raises: PrecheckError: no machine type holds a worker."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            comment_start_string="{%#",  # "{#" is bash's
            autoescape=False,
        )
        environment.filters["quote"] = shlex.quote
        return environment.get_template("job.sbatch.j2").render(
            job_id=job_id,
            run_id=metadata.get("run", ""),
            arguments=arguments,
            allocation=allocate(self.profile.machines, self.size),
            profile=self.profile,
            environment=with_grace(self.profile.environment, self.profile.stop_grace_s),
            folder=str(self._folder(job_id)),
            object_store_bytes=_OBJECT_STORE_BYTES,
            nodes_variable=NODES_VARIABLE,
        )

    def info(self, job_id: str) -> JobInfo | None:
        ended = self._ended(job_id)
        if ended is not None:
            return ended
        for listed in self._listed().get(job_id, ()):
            if listed.state in _WAITING:
                return JobInfo(state=JobState.PENDING, message=f"Slurm: {listed.reason} (job {listed.slurm_id})")
            if listed.state not in _ENDED:
                return JobInfo(state=JobState.RUNNING, message=f"Slurm job {listed.slurm_id}")
        ended = self._ended(job_id)  # it may have ended between the two questions
        if ended is not None:
            return ended
        return self._vanished(job_id)

    def unfinished_jobs(self, run_id: str) -> list[str]:
        return [
            name
            for name, listed in self._listed().items()
            if any(job.run_id == run_id and job.state not in _ENDED for job in listed)
        ]

    def stop(self, job_id: str) -> None:
        for listed in self._listed().get(job_id, ()):
            if listed.state in _WAITING:
                self._run("scancel", listed.slurm_id)
            elif listed.state not in _ENDED:
                # The batch shell alone, which tells the driver; the daemons of Ray stay until it has ended.
                self._run("scancel", "--batch", "--signal=TERM", listed.slurm_id)
        self._forget_listing()

    def logs(self, job_id: str) -> str:
        file = self._folder(job_id) / "output.log"
        try:
            with file.open("rb") as stream:
                stream.seek(max(0, file.stat().st_size - _LOG_BYTES))
                return stream.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise NodeLostError(f"{file}: cannot be read: {error.strerror}") from error

    def _folder(self, job_id: str) -> Path:
        return Path(self.profile.folder) / job_id

    def _ended(self, job_id: str) -> JobInfo | None:
        """How a job ended, as its batch script wrote it."""
        try:
            code, _, reason = (self._folder(job_id) / "ended").read_text().strip().partition(" ")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NodeLostError(f"{self._folder(job_id)}: cannot be read: {error.strerror}") from error
        if reason == "preempted" and code != "0":
            return JobInfo(state=JobState.PREEMPTED, message="its time was over, or its nodes were wanted")
        if code == str(EXIT_REQUEUE):
            return JobInfo(state=JobState.STOPPED, message="it was asked to stop")
        message = f"exit code {code}" + (f": {reason}" if reason else "")
        return JobInfo(state=JobState.SUCCEEDED if code == "0" else JobState.FAILED, message=message)

    def _vanished(self, job_id: str) -> JobInfo | None:
        """Of a job that is not listed and did not write how it ended: None if it never began."""
        claim = self._folder(job_id) / "claim" / "slurm_id"
        listed = self._listed().get(job_id, [])
        states = {job.state for job in listed}
        if states & _TAKEN:
            return JobInfo(state=JobState.PREEMPTED, message=f"Slurm ended it: {', '.join(sorted(states))}")
        if "CANCELLED" in states:
            return JobInfo(state=JobState.STOPPED, message="Slurm ended it: CANCELLED")
        if listed or claim.is_file():
            how = ", ".join(sorted(states)) or "its node is gone, or it was killed"
            return JobInfo(state=JobState.FAILED, message=f"Slurm ended it: {how}")
        return None

    def _listed(self) -> dict[str, list[_Listed]]:
        """Jobs of this user by name, those that ended minutes ago included."""
        listing = self._listing
        with listing.lock:
            if time.monotonic() - listing.taken_at > _LISTED_FOR_S:
                text = self._run("squeue", "--me", "--noheader", "--states=all", "--format=%j|%i|%T|%r|%k")
                jobs: dict[str, list[_Listed]] = {}
                for line in text.splitlines():
                    name, slurm_id, state, reason, run_id = (line.split("|") + [""] * 5)[:5]
                    jobs.setdefault(name, []).append(
                        _Listed(slurm_id=slurm_id, state=state, reason=reason, run_id=run_id)
                    )
                listing.jobs, listing.taken_at = jobs, time.monotonic()
            return listing.jobs

    def _forget_listing(self) -> None:
        with self._listing.lock:
            self._listing.taken_at = -1e9

    def _run(self, *command: str) -> str:
        """The standard output of one of Slurm's commands."""
        options: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
        try:
            done = subprocess.run(command, check=False, timeout=COMMAND_TIMEOUT_S, **options)
        except FileNotFoundError as error:
            raise PrecheckError(
                f"{command[0]}: not found; run where Slurm's commands are installed (Debian: slurm-client)"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise NodeLostError(f"Slurm does not answer: {command[0]} took over {COMMAND_TIMEOUT_S:g} s") from error
        if done.returncode == 0:
            return str(done.stdout)
        said = " ".join(done.stderr.split())[-500:]
        if command[0] == "sbatch" and _REFUSED.search(said):
            raise PrecheckError(f"Slurm refuses the job: {said}; look at machines, account, qos and time_limit_min")
        raise NodeLostError(f"Slurm does not answer: {command[0]}: {said or f'exit code {done.returncode}'}")


def _write_token(file: Path) -> None:
    """A secret of this job's Ray, for its owner alone; a token that is there stays."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32))
