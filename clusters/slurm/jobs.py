"""Stages as Slurm jobs, through sbatch, squeue, scontrol and scancel.

A job is found again by its name, which is that of its attempt, and by its folder: Slurm forgets jobs minutes after
their end, so the batch script writes how it ended. A job that was killed with its node writes nothing; it is known to
have ended because Slurm does not list it any more.
"""

import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from clusters.slurm.config import SlurmMachine, SlurmProfile
from clusters.slurm.scripts import NODES_ENDING, batch_scripts
from orchestrator.cluster.jobs import ENDED, JobInfo, JobSize, JobState
from orchestrator.errors import EXIT_REQUEUE, NodeLostError, PrecheckError

COMMAND_TIMEOUT_S = 30.0
_LISTED_FOR_S = 2.0  # a listing answers all questions for this long
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

    @property
    def leader(self) -> str:
        """The id that a heterogeneous job is known by; each of its parts is listed as 17+0, 17+1."""
        return self.slurm_id.partition("+")[0]


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
        """Raises: PrecheckError: no node is as the profile says, we may not use it, or the folder cannot be written."""
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
            self._check_machine(name, machine)

    def _check_machine(self, name: str, machine: SlurmMachine) -> None:
        """Ask Slurm for one node of a machine type, without a job. Raises: PrecheckError: it has none for us."""
        wanted = {
            "partition": machine.partition,
            "constraint": machine.constraint,
            "cpus-per-task": int(machine.cpus),
            "gres": f"{machine.gres}:{machine.gpus}" if machine.gpus else "",
            "mem": f"{int(machine.memory_gib)}G" if machine.memory_gib else "",
            "account": self.profile.account,
            "qos": self.profile.qos,
            "time": self.profile.time_limit_min,
        }
        options = [f"--{option}={value}" for option, value in wanted.items() if value]
        try:
            self._run("sbatch", "--test-only", "--nodes=1", *options, *self.profile.options, "--wrap=true")
        except PrecheckError as error:
            raise PrecheckError(f"machines.{name}: {error}") from error

    def sized(self, size: JobSize) -> Self:
        return replace(self, size=size)

    def submit(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> None:
        """Raises: PrecheckError: no machine type holds a worker, or Slurm refuses account, QOS or limits."""
        script, of_nodes = self._scripts(job_id, arguments, metadata)
        folder = self._folder(job_id)
        if self.info(job_id) is None:
            folder.mkdir(parents=True, exist_ok=True)
            _write_token(folder / "token")
            (folder / "job.sbatch").write_text(script)
            if of_nodes:
                (folder / "nodes.sbatch").write_text(of_nodes)
            self._send(folder / "job.sbatch")
        self._send_array(job_id)

    def preview(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> str:
        """The batch scripts of a job. Raises: PrecheckError: no machine type holds a worker."""
        script, of_nodes = self._scripts(job_id, arguments, metadata)
        return f"{script}\n{of_nodes}" if of_nodes else script

    def info(self, job_id: str) -> JobInfo | None:
        info = self._info(job_id)
        if info is not None and info.state in ENDED:
            self._release(job_id)
        elif info is not None:  # whoever submitted the job may have died before its array
            self._send_array(job_id)
        return info

    def _info(self, job_id: str) -> JobInfo | None:
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
        states = {listed.leader: listed.state for listed in self._listed().get(job_id, ())}
        for slurm_id, state in states.items():
            if state in _WAITING:
                self._run("scancel", slurm_id)
            elif state not in _ENDED:
                # The batch shell alone, which tells the driver; the daemons of Ray stay until it has ended.
                self._run("scancel", "--batch", "--signal=TERM", slurm_id)
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

    def _scripts(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> tuple[str, str]:
        run_id = metadata.get("run", "")
        folder = self._folder(job_id)
        return batch_scripts(self.profile, self.size, job_id=job_id, run_id=run_id, arguments=arguments, folder=folder)

    def _send_array(self, job_id: str) -> None:
        """Queue the nodes that may come later, once, behind the job that they join. One that has ended gets none."""
        script, sent = self._folder(job_id) / "nodes.sbatch", self._folder(job_id) / "nodes_sent"
        if not script.is_file() or sent.is_file():
            return
        listed = self._listed()
        unfinished = [job.leader for job in listed.get(job_id, ()) if job.state not in _ENDED]
        if unfinished and not listed.get(job_id + NODES_ENDING):
            self._send(script, f"--dependency=after:{unfinished[0]}")
            sent.touch()

    def _send(self, script: Path, *options: str) -> None:
        words = [*options, *self.profile.options, str(script)]
        try:
            self._run("sbatch", "--test-only", *words)
            self._run("sbatch", "--parsable", *words)
        finally:
            self._forget_listing()

    def _release(self, job_id: str) -> None:
        """Give back the nodes that joined a job, or would, once it has ended: it may have died without doing so."""
        name = job_id + NODES_ENDING
        if (self._folder(job_id) / "nodes.sbatch").is_file() and any(
            job.state not in _ENDED for job in self._listed().get(name, ())
        ):
            self._run("scancel", "--me", f"--name={name}")
            self._forget_listing()

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
