"""The log of a worker process: its log lines, what it and its children print, the stacks of a crash.

It is a file of the attempt, next to that of the driver where the worker can write there: on the same machine, or in a
store on a shared disk. On another node it is a temporary file that is uploaded.
"""

import atexit
import contextlib
import faulthandler
import logging
import os
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.logs.log_file import LogFile
from orchestrator.logs.output import TAIL_S, OutputTail, redirect_output
from orchestrator.logs.pieces import PieceUploader, UploadThread, writer_name
from orchestrator.store.store import Store

log = logging.getLogger(__name__)

OUTPUTS = "outputs"  # folder below the scratch folder of the attempt


@dataclass(frozen=True, kw_only=True)
class WorkerLogs:
    """Where the workers of an attempt log. Can be pickled."""

    store: Store
    folder: str  # key of the logs of the run in the store
    stem: str  # path of the attempt's log files without their suffixes, on the machine of the driver
    scratch: Path

    def path(self, name: str) -> Path:
        """The log of a worker, e.g. `worker-71`, on the machine of the driver."""
        return Path(f"{self.stem}.{name}.log")

    def output(self, name: str) -> Path:
        """The file in which a worker on the machine of the driver catches what it prints."""
        return self.scratch / OUTPUTS / f"{self.path(name).stem}.out"

    def open(self, name: str) -> "WorkerLog":
        """Called in the worker's process, once: from now on all that it says is in its log. Never fails."""
        path, output = self.path(name), self.output(name)
        try:
            if not os.access(path.parent, os.W_OK):  # another machine
                here = Path(tempfile.mkdtemp(prefix="illume-log-"))
                path, output = here / f"{Path(self.stem).name}.{name}-{socket.gethostname()}.log", here / "output.out"
            redirect_output(output)
        except OSError as error:
            log.warning("the output of this process is not in the log %s: %s", path.name, error)
        upload = None
        if not self.store.is_local:
            uploader = PieceUploader(self.store, self.folder, path, writer=writer_name(time.time()))
            upload = UploadThread(uploader)
        return WorkerLog(LogFile(path), output, upload)


class WorkerLog:
    """The open log of this process."""

    def __init__(self, file: LogFile, output: Path, upload: UploadThread | None) -> None:
        self.file = file
        self._tail, self._upload = OutputTail(output, file.append), upload
        self._closed = threading.Event()
        root = logging.getLogger()
        root.addHandler(file)
        root.setLevel(logging.INFO)
        with contextlib.suppress(OSError):
            faulthandler.enable(file)
        self._thread = threading.Thread(target=self._follow_output, name="output", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def fileno(self) -> int:
        """For stack dumps."""
        try:
            return self.file.fileno()
        except OSError:
            return sys.stderr.fileno()

    def close(self) -> None:
        """Write and upload the rest, as the process ends."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        self._tail.copy(is_last=True)
        if self._upload is not None:
            self._upload.close()

    def _follow_output(self) -> None:
        while not self._closed.wait(TAIL_S):
            self._tail.copy()
