"""The log files of a run: one for each attempt, one for its job where it is one, and one for each worker process.

    curated-1-1.log              of the driver
    curated-1-1.job.log          of the job that runs the attempt on a cluster; it needs no driver
    curated-1-1.worker-71.log    of a worker


In a local store they are written directly below `runs/<run>/logs/`; for a remote store they are written on this machine
and uploaded meanwhile (see `pieces.py`).
"""

import contextlib
import contextvars
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.local_store import LocalStore
from orchestrator.errors import StoreError
from orchestrator.logs.log_file import LogFile
from orchestrator.logs.output import OutputTail, captured_output
from orchestrator.logs.pieces import PieceUploader, UploadThread, list_pieces, writer_name
from orchestrator.logs.worker_log import OUTPUTS, WorkerLogs
from orchestrator.store.layout import RUNS
from orchestrator.store.store import Store

log = logging.getLogger(__name__)

JOB_SUFFIX = ".job.log"

_current_attempt: contextvars.ContextVar[str] = contextvars.ContextVar("current_attempt", default="")


@dataclass(frozen=True, kw_only=True)
class RunLogs:
    store: Store
    state: Path  # local folder of the workspace
    run_id: str

    @property
    def folder(self) -> Path:
        """The local folder of the run's log files."""
        return self.store.local(self.key) or self.state / "logs" / self.run_id

    @property
    def key(self) -> str:
        """The folder of the run's logs in the store."""
        return f"{RUNS}/{self.run_id}/logs"

    def make_folder(self) -> None:
        """Make the folder, if the store is there. Raises: OSError, StoreError."""
        if isinstance(self.store, LocalStore):
            self.store.make_folder(self.key)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)

    def stem(self, attempt_id: str) -> Path:
        """The path of an attempt's log files without their suffixes."""
        return self.folder / attempt_id.removeprefix(f"{self.run_id}-")

    def of_workers(self, attempt_id: str, scratch: Path) -> WorkerLogs:
        """Where the workers of an attempt log. `scratch`: a folder of the attempt that is deleted at its end."""
        return WorkerLogs(store=self.store, folder=self.key, stem=str(self.stem(attempt_id)), scratch=scratch)

    @contextlib.contextmanager
    def capture(self, attempt_id: str, *, is_job: bool = False) -> Iterator[None]:
        """Write to the attempt's file: log lines of this thread and of threads without an attempt, and its output.

        `is_job`: this process is the job that runs the attempt; it has a file of its own, and prints as before.
        """
        with contextlib.suppress(OSError, StoreError):  # then the file cannot be opened, which is reported
            self.make_folder()
        handler, upload = LogFile(Path(f"{self.stem(attempt_id)}{JOB_SUFFIX if is_job else '.log'}")), None
        handler.addFilter(lambda _record: _current_attempt.get() in ("", attempt_id))
        if not self.store.is_local:
            start = handler.path.stat().st_size if handler.path.exists() else 0
            writer = writer_name(time.time())
            upload = UploadThread(PieceUploader(self.store, self.key, handler.path, writer=writer, start=start))
        root = logging.getLogger()
        token = _current_attempt.set(attempt_id)
        root.addHandler(handler)
        if root.level > logging.INFO:
            root.setLevel(logging.INFO)
        try:
            with captured_output(_printing(handler.append) if is_job else handler.append):
                yield
        finally:
            root.removeHandler(handler)
            _current_attempt.reset(token)
            handler.close()
            if upload is not None:
                upload.close()

    def finish(self, attempt_id: str, scratch: Path) -> None:
        """After an attempt has ended: complete the logs of its workers, which may have been killed; delete empty ones.

        Never fails: the work is done.
        """
        stem = self.stem(attempt_id)
        for output in sorted((scratch / OUTPUTS).glob("*.out")):
            file = LogFile(stem.parent / f"{output.stem}.log")
            OutputTail(output, file.append).copy(is_last=True)
            file.close()
        for path in self._own_files(stem):
            if path.name.endswith(JOB_SUFFIX):  # the job itself completes it
                continue
            try:
                if path.stat().st_size == 0:
                    path.unlink(missing_ok=True)
                elif not self.store.is_local:
                    PieceUploader.continuing(self.store, self.key, path, now_s=time.time()).finish()
            except (OSError, StoreError) as error:
                log.warning("log %s: stays on this machine: %s", path, error)

    def _own_files(self, stem: Path) -> list[Path]:
        """The log files of an attempt but for its first, among those of thousands of attempts."""
        try:
            names = os.listdir(stem.parent)
        except FileNotFoundError:
            return []
        own = [name for name in names if name.startswith(f"{stem.name}.") and name.endswith(".log")]
        return [stem.parent / name for name in sorted(own) if name != f"{stem.name}.log"]

    def files(self, wants: Callable[[str], bool] = lambda _name: True) -> list[Path]:
        """The log files of the run whose names are wanted; of a remote store what is missing here is downloaded."""
        if not self.store.is_local:
            self._download(wants)
        return sorted(path for path in self.folder.glob("*.log") if wants(path.name))

    def _download(self, wants: Callable[[str], bool]) -> None:
        """Fetch what is not on this machine. A file that is being written here is complete here."""
        self.make_folder()
        for name, pieces in list_pieces(self.store, self.key).items():
            path, end = self.folder / name, 0
            size = path.stat().st_size if path.exists() else 0
            for piece in pieces if wants(name) else ():
                start, end = end, end + piece.end - piece.start
                if end > size:
                    data = self.store.get(f"{self.key}/{piece.name}") or b""
                    with path.open("ab") as file:
                        file.write(data[max(0, size - start) :])
        for item in self.store.list(self.key):  # of older versions: files as a whole
            name = item.key.removeprefix(f"{self.key}/")
            if "/" not in name and wants(name) and not (self.folder / name).exists():
                self.store.download(item.key, self.folder / name)


def _printing(append: Callable[[str], None]) -> Callable[[str], None]:
    """Append a line and print it too."""
    stream = sys.stdout

    def both(line: str) -> None:
        append(line)
        stream.write(f"{line}\n")
        stream.flush()

    return both
