"""One training worker, whoever started its process: what it is sent, what it reports, and how it runs the loop."""

import faulthandler
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import OrchestratorError
from orchestrator.stage import Checkpoints, RetryPolicy, StageContext, WorkerLogs
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.program import ProgramClass, Task

logger = logging.getLogger(__name__)

REPORT_S = 0.5  # between two reports of a worker
STACKS_S = 2.0  # time for a hung worker to write its stacks before it is killed

Steps = list[tuple[int, dict[str, float]]]  # finished steps and their metrics


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What every worker of a training is sent. Can be pickled."""

    program_class: ProgramClass[Any]
    task: Any  # of the program class
    loop: LoopConfig
    retry: RetryPolicy
    execution: TrainingExecution
    checkpoints: Checkpoints
    cpus: float
    stacks: Path  # folder for the stacks of hung workers
    logs: WorkerLogs


def worker_settings(
    program_class: ProgramClass[Task], task: Task, loop: LoopConfig, context: StageContext
) -> WorkerSettings:
    return WorkerSettings(
        program_class=program_class,
        task=task,
        loop=loop,
        retry=context.retry,
        execution=context.execution(TrainingExecution),
        checkpoints=context.checkpoints,
        cpus=context.resources.cpus,
        stacks=context.scratch,
        logs=context.worker_logs,
    )


class DriverLink(Protocol):
    """A worker's connection to the stage's driver. No call but `close` waits for the driver."""

    def register(self) -> None:
        """Say on which node this worker runs, and as which process."""

    def send(self, steps: Steps) -> None: ...

    def fail(self, error: OrchestratorError) -> None: ...

    def stop_requested(self) -> bool: ...

    def close(self) -> None:
        """Wait until everything sent has arrived, as the worker's process ends right after."""


class BatchingReporter:
    """The `Reporter` of a worker: rank 0 sends its steps in batches, the others only a sign of life."""

    def __init__(self, link: DriverLink, rank: int) -> None:
        self._link, self._rank = link, rank
        self._steps: Steps = []
        self._sent_at = 0.0

    def started(self, step: int) -> None:
        self._link.register()
        self.step(step, {})

    def step(self, step: int, metrics: dict[str, float]) -> None:
        if self._rank == 0:
            self._steps.append((step, metrics))
        if time.monotonic() - self._sent_at >= REPORT_S:
            self.flush()

    def stop_requested(self) -> bool:
        return self._link.stop_requested()

    def flush(self) -> None:
        self._link.send(self._steps)
        self._steps, self._sent_at = [], time.monotonic()


def log_name(rank: int) -> str:
    return f"rank-{rank}"


def run_in_process(settings: WorkerSettings, *, rank: int, world_size: int, device: Any, link: DriverLink) -> None:
    """Run the training loop as one of its workers; the process group exists if there are several.

    An OrchestratorError is also sent to the driver as an object, as a launcher may turn what a worker raises into text.
    """
    import torch

    from stages.training.agreement import WorkerRank
    from stages.training.loop import run_worker

    log = settings.logs.open(log_name(rank))
    torch.set_num_threads(max(1, int(settings.cpus)))
    dump_stacks_on_signal(settings.stacks)
    reporter = BatchingReporter(link, rank)
    try:
        run_worker(
            settings.program_class,
            settings.task,
            settings.loop,
            retry=settings.retry,
            execution=settings.execution,
            checkpoints=settings.checkpoints,
            reporter=reporter,
            worker=WorkerRank(rank=rank, world_size=world_size, device=device),
        )
    except OrchestratorError as error:
        link.fail(error)
        logger.error("%s", error)
        raise
    except Exception:
        logger.exception("worker %d failed", rank)
        raise
    finally:
        reporter.flush()
        log.close()
        link.close()


def stack_file(folder: Path, pid: int) -> Path:
    return folder / f"stacks-{pid}.txt"


def dump_stacks_on_signal(folder: Path) -> None:
    """Make this process write the stacks of all its threads to `stack_file` when it gets SIGUSR1."""
    folder.mkdir(parents=True, exist_ok=True)
    file = stack_file(folder, os.getpid()).open("w")  # stays open for the life of the process
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)


def kill_with_stacks(pid: int, folder: Path) -> str:
    """The stacks of a worker process on this node, which is killed after writing them."""
    file = stack_file(folder, pid)
    try:
        os.kill(pid, signal.SIGUSR1)
        time.sleep(STACKS_S)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return "the process had already ended"
    return file.read_text() if file.exists() else "no stacks were written"
