"""The drivers of queued runs: a process of this program for each, which outlives a server that is killed."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.actor import ACTOR_VARIABLE
from orchestrator.queue.records import Submission

PROGRAM = (sys.executable, "-c", "from orchestrator.cli import main; main()")
TAIL_BYTES = 4000  # of what a driver printed, for messages

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A driver that has ended."""

    run_id: str
    code: int
    last_words: str


@dataclass(kw_only=True)
class Drivers:
    """The processes that this server has started."""

    folder: Path  # for profiles and what drivers print
    arguments: Sequence[str]  # `--store`, `--database` and so on
    program: Sequence[str] = PROGRAM
    start_process: Callable[..., "subprocess.Popen[bytes]"] = subprocess.Popen
    _at_work: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._at_work)

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._at_work

    def start(self, submission: Submission) -> None:
        """Start the driver of a run. It acts for the person who submitted it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cluster = self._cluster(submission.cluster)
        command = [*self.program, "resume", submission.run_id, *self.arguments, *cluster]
        environment = {**os.environ, ACTOR_VARIABLE: submission.by.name, "PYTHONUNBUFFERED": "1"}
        with self._log(submission.run_id).open("ab") as output:
            self._at_work[submission.run_id] = self.start_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C of the server is not theirs
            )
        log.info("run %s: driver started for %s", submission.run_id, submission.person)

    def ended(self) -> list[Ended]:
        """Those that have ended since the last call."""
        over = {run_id: process.poll() for run_id, process in self._at_work.items()}
        found = []
        for run_id, code in over.items():
            if code is not None:
                del self._at_work[run_id]
                found.append(Ended(run_id=run_id, code=code, last_words=self._tail(run_id)))
        return found

    def stop(self, patience_s: float) -> None:
        """Ask all to stop at their commit points, or to leave their jobs, and wait for them."""
        for process in self._at_work.values():
            process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + patience_s
        while self._at_work and time.monotonic() < deadline_s:
            if not self.ended():
                time.sleep(0.1)
        for run_id in self._at_work:
            log.warning("run %s: its driver is still at work; it goes on without this server", run_id)

    def _cluster(self, text: str) -> list[str]:
        if not text or ("://" in text and "\n" not in text):
            return ["--cluster", text] if text else []
        file = self.folder / f"profile-{hashlib.sha256(text.encode()).hexdigest()[:16]}.yaml"
        if not file.exists():
            draft = file.with_name(f"{file.name}.{os.getpid()}")
            draft.write_text(text)
            draft.replace(file)
        return ["--cluster", str(file)]

    def _log(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.log"

    def _tail(self, run_id: str) -> str:
        try:
            data = self._log(run_id).read_bytes()[-TAIL_BYTES:]
        except OSError:
            return ""
        return data.decode(errors="replace").strip()
