"""Training workers as plain processes of this one, without Ray: they start in a fifth of Ray Train's time.

For small models on the CPUs of this machine, and for tests.
"""

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from signal import Signals
from typing import Any

from orchestrator.errors import NodeLostError, PrecheckError
from orchestrator.plugins.loading import file_of_module
from orchestrator.stage import StageContext
from stages.training.workers.reports import Report, WorkerReports
from stages.training.workers.worker import WorkerSettings, log_name, take_stacks
from stages.training.workers.worker_process import WorkerProcess, start_worker

NODE = "this machine"
MAX_LAST_WORDS = 2000  # characters of the log of a worker that died
GRACE_S = 5.0  # for the other workers to end by themselves after one has failed


class WorkerDiedError(RuntimeError):
    """A worker's process was killed."""


class WorkerFailedError(RuntimeError):
    """A worker raised; the message is its traceback, the cause is the error itself if it can be pickled."""


class ProcessGroup:
    """`driver.WorkerGroup` of one attempt, used by one thread."""

    def __init__(self, settings: WorkerSettings, context: StageContext) -> None:
        num_workers, gpus = context.resources.workers, context.resources.gpus
        if gpus:
            raise PrecheckError(
                f"{context.stage_id}: resources.gpus: found {gpus:g}, expected 0 with plain_training_workers; remove "
                "that line from the profile, so that Ray assigns the GPUs"
            )
        settings.stacks.mkdir(parents=True, exist_ok=True)
        self._stacks, self._logs = settings.stacks, settings.logs
        self._reports = WorkerReports()
        self._pipes: dict[int, Connection[Any, Any]] = {}  # by rank, of the workers that have not ended
        self._workers: dict[int, WorkerProcess] = {}
        self._failures: dict[int, WorkerFailedError] = {}  # by rank, in the order in which they arrived
        self._failed_at: float | None = None
        self._stopped: set[int] = set()  # ranks that this group killed
        self._is_stop_sent = False
        module = settings.program_class.__module__
        plugin = file_of_module(module)
        for rank in range(num_workers):
            self._pipes[rank], its_end = Pipe()
            with its_end:
                self._workers[rank] = start_worker(its_end.fileno(), self._log_file(rank), module=module, plugin=plugin)
            self._reports.register(rank, NODE, self._workers[rank].pid)
            self._pipes[rank].send((settings, rank, num_workers))

    def wait(self, timeout_s: float) -> bool:
        """Receive what the workers send for so long, or until all have ended."""
        give_up_at = time.monotonic() + timeout_s
        while self._pipes and (left_s := give_up_at - time.monotonic()) > 0:
            ready = connection.wait(list(self._pipes.values()), timeout=left_s)
            for rank in [rank for rank, pipe in self._pipes.items() if pipe in ready]:
                self._receive(rank)
            if self._failed_at is not None and time.monotonic() - self._failed_at > GRACE_S:
                self._stop_all()
        return not self._pipes

    def collect(self, stop: bool) -> Report:
        if stop and not self._is_stop_sent:
            self._is_stop_sent = True
            for pipe in self._pipes.values():
                with suppress(OSError):  # it has ended meanwhile
                    pipe.send("stop")
        return self._reports.collect(stop)

    def stacks(self, processes: Mapping[int, tuple[str, int]], *, kill: bool) -> dict[int, str]:
        found = take_stacks([pid for _, pid in processes.values()], self._stacks, kill=kill)
        return {rank: found[pid] for rank, (_, pid) in processes.items()}

    def has_spare(self, nodes: Collection[str]) -> bool:
        """All workers are on this machine."""
        return False

    def waiting_for(self) -> str:
        return ""

    def error(self) -> BaseException | None:
        for rank, worker in self._workers.items():
            if (code := worker.wait()) < 0 and rank not in self._stopped:
                last_words = self._printed(rank)[-MAX_LAST_WORDS:].strip()
                return WorkerDiedError(f"training worker {rank} died: {Signals(-code).name}\n{last_words}".strip())
        return next(iter(self._failures.values()), None)

    def explain(self, error: BaseException, processes: Mapping[int, tuple[str, int]]) -> Exception:
        return NodeLostError(str(error)) if isinstance(error, WorkerDiedError) else RuntimeError(str(error))

    def close(self) -> None:
        self._stop_all()
        for worker in self._workers.values():
            worker.wait()
        for pipe in self._pipes.values():
            pipe.close()

    def _receive(self, rank: int) -> None:
        try:
            message, content = self._pipes[rank].recv()
        except (EOFError, OSError):
            self._pipes.pop(rank).close()
            if self._workers[rank].wait() != 0:
                self._failed_at = self._failed_at or time.monotonic()
            return
        if message == "steps":
            self._reports.send(rank, *content)
        elif message == "notice":
            self._reports.notify(content)
        elif message == "error":
            self._reports.fail(content)
        else:
            text, cause = content
            self._failures[rank] = WorkerFailedError(text)
            self._failures[rank].__cause__ = cause

    def _log_file(self, rank: int) -> Path:
        return self._stacks / f"worker-{rank}.log"

    def _printed(self, rank: int) -> str:
        """What a worker printed before its log was open, and then."""
        files = (self._log_file(rank), self._logs.output(log_name(rank)))
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def _stop_all(self) -> None:
        for rank, worker in self._workers.items():
            if worker.poll() is None:
                self._stopped.add(rank)
                worker.kill()
