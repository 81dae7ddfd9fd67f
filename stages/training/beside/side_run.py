"""One evaluation that runs beside a training: a process of this machine."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, Protocol

from orchestrator.plugins.loading import file_of_module
from stages.training.workers.worker import WorkerSettings
from stages.training.workers.worker_process import start_worker

MAX_LAST_WORDS = 2000  # characters of what a process printed that died


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """How an evaluation ended."""

    step: int = 0
    metrics: dict[str, float] | None = None  # None: it failed
    error: str = ""


class SideRun(Protocol):
    """An evaluation that has begun."""

    def result(self) -> Evaluated | None:
        """None: it is still running. Never raises."""

    def close(self) -> None:
        """End it, if it still runs."""


StartSideRun = Callable[[WorkerSettings], SideRun | None]  # None: no worker is free now


class SideProcess:
    """`SideRun` in a process of this machine."""

    def __init__(self, settings: WorkerSettings) -> None:
        settings.stacks.mkdir(parents=True, exist_ok=True)
        self._log = settings.stacks / f"{settings.beside}.log"
        module = settings.program_class.__module__
        self._pipe: Connection[Any, Any]
        self._pipe, its_end = Pipe()
        with its_end:
            self._process = start_worker(its_end.fileno(), self._log, module=module, plugin=file_of_module(module))
        # Sent by a thread: a process that is still starting does not read, and training is not to wait for it.
        threading.Thread(target=self._send, args=((settings, 0, 1),), name=settings.beside, daemon=True).start()

    def _send(self, message: object) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            return  # it has ended, which `result` says

    def result(self) -> Evaluated | None:
        try:
            if not self._pipe.poll():
                return None
            kind, content = self._pipe.recv()
        except (EOFError, OSError):
            said = self._log.read_text(errors="replace")[-MAX_LAST_WORDS:].strip()
            return Evaluated(error=f"its process ended with code {self._process.wait()}\n{said}".strip())
        if kind == "evaluated":
            step, metrics = content
            return Evaluated(step=step, metrics=metrics)
        text, cause = content
        return Evaluated(error=f"{type(cause).__name__}: {cause}" if cause is not None else text)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._pipe.close()
