"""A training worker as a plain process: `python -m stages.training.workers.process_worker PIPE [PLUGIN]`.

Started by `process_group.py`. PLUGIN is the file with the program, if that is no installed package.

The pipe brings the settings, then perhaps the word to stop. When it closes, the driver is gone, and the worker ends.
"""

import os
import pickle
import signal
import sys
import threading
import traceback
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.plugins.loading import load_file
from stages.training.watching.notices import Notice
from stages.training.watching.timeouts import collective_timeout_s
from stages.training.workers.worker import Steps, WorkerSettings, run_in_process

EXIT_ORPHANED = 3


class _PipeLink:
    """`worker.DriverLink` through a pipe."""

    def __init__(self, pipe: "Connection[Any, Any]", told_to_end: threading.Event) -> None:
        self._pipe, self._told_to_end = pipe, told_to_end
        self._stop = threading.Event()
        threading.Thread(target=self._listen, name="driver", daemon=True).start()

    def register(self) -> None:
        """The driver knows the processes that it started."""

    def send(self, newest_step: int, steps: Steps) -> None:
        self._pipe.send(("steps", (newest_step, steps)))

    def notify(self, notice: Notice) -> None:
        self._pipe.send(("notice", notice))

    def fail(self, error: OrchestratorError) -> None:
        self._pipe.send(("error", error))

    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def preempted(self) -> bool:
        return self._told_to_end.is_set()

    def look_for_preemption(self) -> None:
        """There is no cluster to ask."""

    def close(self) -> None:
        """Nothing to wait for: a pipe keeps what was sent until it is read."""

    def _listen(self) -> None:
        try:
            self._pipe.recv()
            self._stop.set()
            self._pipe.recv()
        except (EOFError, OSError):
            os._exit(EXIT_ORPHANED)


def main(descriptor: int, plugin: str = "") -> int:
    told_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: told_to_end.set())  # ends after a checkpoint
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # often sent to all processes at once; the driver asks for the stop
    import torch
    import torch.distributed as dist

    pipe: Connection[Any, Any] = Connection(descriptor)
    try:
        if plugin:
            load_file(Path(plugin))
        settings: WorkerSettings
        settings, rank, world_size = pipe.recv()
        if settings.beside:
            from stages.training.workers.evaluation import evaluate_newest

            pipe.send(("evaluated", evaluate_newest(settings, torch.device("cpu"))))
            return 0
        if world_size > 1:
            meeting = f"file://{settings.stacks.resolve()}/process-group"
            limit = timedelta(seconds=collective_timeout_s(settings.retry.hang_after_s))
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size, timeout=limit)
        run_in_process(
            settings, rank=rank, world_size=world_size, device=torch.device("cpu"), link=_PipeLink(pipe, told_to_end)
        )
    except Exception as error:  # noqa: BLE001 - sent to the driver, which decides
        pipe.send(("failed", (traceback.format_exc(), error if _can_be_sent(error) else None)))
        return 1
    if world_size > 1:
        dist.destroy_process_group()
    return 0


def _can_be_sent(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made in this process
    except Exception:  # noqa: BLE001 - an error of any library may fail in any way
        return False
    return True


if __name__ == "__main__":
    code = main(int(sys.argv[1]), *sys.argv[2:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # after a failure gloo's threads still run, and an ordinary exit would abort the process over them
