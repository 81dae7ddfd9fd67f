"""A cluster whose jobs are processes of this machine: what Ray Jobs does, without Ray, recorded in a folder.

<folder>/<job>.started   made once: a second submission of the id does nothing
<folder>/<job>.pid       of the process, which writes it itself: its controller may be killed at any moment
<folder>/<job>.out       what it printed
<folder>/<job>.lost      the cluster says that it failed, whatever its process does: its node was given up
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.cluster.ray_jobs import JobInfo, JobState, RayJobs

ROOT = Path(__file__).parents[2]
STARTING_S = 20.0  # a job without a process is one that is being started


@dataclass(frozen=True, kw_only=True)
class FolderJobs(RayJobs):
    """The jobs of one folder. Several controllers may use it at the same time."""

    folder: Path
    address: str = "http://folder"

    def check(self) -> None:
        pass

    def submit(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> None:
        try:
            self._file(job_id, "started").touch(exist_ok=False)
        except FileExistsError:
            return
        environment = {**os.environ, "RAY_ADDRESS": "none", "RAY_AUTH_MODE": "disabled", "ILLUME_FAILPOINTS": ""}
        script = 'echo $$ >"$0.pid.new" && mv "$0.pid.new" "$0.pid" && exec "$@" >"$0.out" 2>&1 </dev/null'
        stem, program = str(self.folder / job_id), str(ROOT / "tests/chaos/counting_driver.py")
        subprocess.Popen(
            ["sh", "-c", script, stem, sys.executable, program, *shlex.split(arguments)],
            env={**environment, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    def info(self, job_id: str) -> JobInfo | None:
        if not self._file(job_id, "started").exists():
            return None
        if self._file(job_id, "lost").exists():
            return JobInfo(state=JobState.FAILED, message="its node was lost")
        if not self._file(job_id, "pid").exists():
            age_s = time.time() - self._file(job_id, "started").stat().st_mtime
            return JobInfo(state=JobState.PENDING if age_s < STARTING_S else JobState.FAILED, message="never started")
        process = self.process(job_id)
        return JobInfo(state=JobState.SUCCEEDED if process is None else JobState.RUNNING, message="")

    def unfinished_jobs(self, run_id: str) -> list[str]:
        jobs = [file.name.removesuffix(".started") for file in self.folder.glob(f"illume-{run_id}-*.started")]
        return [job for job in jobs if (info := self.info(job)) and info.state is JobState.RUNNING]

    def stop(self, job_id: str) -> None:
        if process := self.process(job_id):
            process.send_signal(signal.SIGTERM)

    def logs(self, job_id: str) -> str:
        file = self._file(job_id, "out")
        return file.read_text() if file.exists() else ""

    def lose(self, job_id: str) -> None:
        """From now on the cluster says that the job failed."""
        self._file(job_id, "lost").touch()

    def all(self) -> list[str]:
        return sorted(file.name.removesuffix(".started") for file in self.folder.glob("*.started"))

    def process(self, job_id: str) -> psutil.Process | None:
        """The process of a job while it exists."""
        file = self._file(job_id, "pid")
        text = file.read_text() if file.exists() else ""
        try:
            found = psutil.Process(int(text)) if text else None
            return None if found is None or found.status() == psutil.STATUS_ZOMBIE else found
        except psutil.NoSuchProcess:
            return None

    def _file(self, job_id: str, ending: str) -> Path:
        return self.folder / f"{job_id}.{ending}"
