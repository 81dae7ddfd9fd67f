"""Starts the processes of training workers: copies of one template where the system has a safe fork, else new ones."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from stages.training.workers.template import receive, send

POLL_S = 0.01  # between two questions whether a copy has ended
NO_GPUS = {"CUDA_VISIBLE_DEVICES": ""}


class WorkerProcess(Protocol):
    """As `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def kill(self) -> None: ...


def start_worker(pipe: int, log: Path, *, module: str, plugin: Path | None) -> WorkerProcess:
    """A worker that is sent its settings through the pipe; it can import what this process can.

    `module` is that of the program, or `plugin` the file with it.
    """
    plugins = [str(plugin)] if plugin else []
    with log.open("wb") as output:
        if sys.platform == "linux" and (
            copy := _TEMPLATES.start(pipe, output.fileno(), module="" if plugin else module, plugins=plugins)
        ):
            return copy
        # In a session of its own: Ctrl-C is for the driver, which then asks its workers to stop.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "stages.training.workers.process_worker", str(pipe), *plugins],
            env=_environment(),
            pass_fds=(pipe,),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **NO_GPUS}


class _Template:
    """A running template. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, its_end = socket.socketpair()
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stages.training.workers.template", str(its_end.fileno())],
                env=_environment(),
                pass_fds=(its_end.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def ask(self, request: Any, descriptors: Sequence[int] = ()) -> Any:
        """Raises: EOFError, OSError if the template has ended."""
        with self._lock:
            send(self._socket, request, descriptors)
            return receive(self._socket)[0]

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


class _Templates:
    """The template of this process, started when it is first needed, and anew after it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._template: _Template | None = None

    def start(self, pipe: int, log: int, *, module: str, plugins: list[str]) -> "ForkedWorker | None":
        """None if it cannot be: the module cannot be imported, for example, which a new process then reports."""
        request = {
            "module": module,
            "plugins": plugins,
            "environment": _environment(),
            "path": [entry for entry in sys.path if entry],
            "folder": str(Path.cwd()),
        }
        with self._lock:
            if self._template is None:
                self._template = _Template()
            template = self._template
        try:
            return ForkedWorker(template, template.ask(request, (pipe, log)))
        except (EOFError, OSError, json.JSONDecodeError):
            with self._lock:
                if self._template is template:
                    self._template = None
            template.close()
            return None


_TEMPLATES = _Templates()


class ForkedWorker:
    """`WorkerProcess` that is a child of the template, which keeps its id from being given away until it was asked."""

    def __init__(self, template: _Template, pid: int) -> None:
        self._template, self._pid = template, pid
        self._code: int | None = None

    @property
    def pid(self) -> int:
        return self._pid

    def poll(self) -> int | None:
        if self._code is None:
            try:
                self._code = self._template.ask({"pid": self._pid})
            except (EOFError, OSError):  # it was killed, and whether the worker ended well is not known
                self._code = -signal.SIGKILL
        return self._code

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(POLL_S)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
