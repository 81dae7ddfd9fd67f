"""One training worker, whoever started its process: what it is sent, what it reports, and how it runs the loop."""

import faulthandler
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import OrchestratorError
from orchestrator.stage import Checkpoints, NodeInputs, RetryPolicy, StageContext, WorkerLogs
from stages.node_data import open_inputs
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.program import ProgramClass, Task
from stages.training.watching.notices import Notice

logger = logging.getLogger(__name__)

REPORT_S = 0.5  # between two reports of rank 0
SIGN_OF_LIFE_S = 5.0  # between two reports of the others, of which there may be hundreds
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
    stacks: Path  # folder on each node for the stacks of hung workers
    inputs: NodeInputs
    logs: WorkerLogs
    fingerprint: str  # of what the training makes
    beside: str = ""  # name of one evaluation beside the training, which this worker makes; "": it trains


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
        inputs=context.node_inputs,
        logs=context.worker_logs,
        fingerprint=context.fingerprint,
    )


class DriverLink(Protocol):
    """A worker's connection to the stage's driver. No call but `close` waits for it."""

    def register(self) -> None:
        """Say on which node this worker runs, and as which process."""

    def send(self, newest_step: int, steps: Steps) -> None: ...

    def notify(self, notice: Notice) -> None: ...

    def fail(self, error: OrchestratorError) -> None: ...

    def stop_requested(self) -> bool: ...

    def preempted(self) -> bool:
        """Whether this process was told to end (SIGTERM)."""

    def look_for_preemption(self) -> Mapping[str, Any] | None:
        """What the cluster says about nodes that are taken away: called by all workers at once, waits for all."""

    def close(self) -> None:
        """Wait until everything sent has arrived, as the worker's process ends right after."""


class BatchingReporter:
    """The `Reporter` of a worker: rank 0 sends its steps in batches, the others only a sign of life."""

    def __init__(self, link: DriverLink, rank: int) -> None:
        self._link, self._rank = link, rank
        self._steps: Steps = []
        self._newest_step = 0
        self._sent_at = 0.0

    def started(self, step: int) -> None:
        self._link.register()
        self.step(step, {})

    def step(self, step: int, metrics: dict[str, float]) -> None:
        self._newest_step = step
        if self._rank == 0:
            self._steps.append((step, metrics))
        if time.monotonic() - self._sent_at >= (REPORT_S if self._rank == 0 else SIGN_OF_LIFE_S):
            self.flush()

    def notify(self, notice: Notice) -> None:
        self._link.notify(notice)

    def preempted(self) -> bool:
        return self._link.preempted()

    def look_for_preemption(self) -> Mapping[str, Any] | None:
        return self._link.look_for_preemption()

    def stop_requested(self) -> bool:
        return self._link.stop_requested()

    def flush(self) -> None:
        self._link.send(self._newest_step, self._steps)
        self._steps, self._sent_at = [], time.monotonic()


def log_name(rank: int) -> str:
    return f"rank-{rank}"


def run_in_process(settings: WorkerSettings, *, rank: int, world_size: int, device: Any, link: DriverLink) -> None:
    """Run the training loop as one of its workers; the process group exists if there are several.

    An OrchestratorError is also sent to the driver as an object, as a launcher may turn what a worker raises into text.
    """
    import torch

    from stages.training.agreement import WorkerRank
    from stages.training.checkpoints.local_copies import LocalCopies
    from stages.training.loop import run_worker
    from stages.training.watching.node_proof import report_unfit_nodes

    log = settings.logs.open(log_name(rank))
    torch.set_num_threads(max(1, int(settings.cpus)))
    dump_stacks_on_signal(settings.stacks)
    reporter = BatchingReporter(link, rank)
    worker = WorkerRank(rank=rank, world_size=world_size, device=device)
    own_disk = settings.execution.local_checkpoints
    copies = LocalCopies(Path(own_disk) / settings.fingerprint, rank) if own_disk else None
    try:
        if settings.execution.watch.prove_nodes:
            report_unfit_nodes(worker, settings.stacks, link.notify)
        open_inputs(settings.inputs, in_random_order=True)
        run_worker(
            settings.program_class,
            settings.task,
            settings.loop,
            retry=settings.retry,
            execution=settings.execution,
            checkpoints=settings.checkpoints,
            reporter=reporter,
            worker=worker,
            copies=copies,
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
    path = stack_file(folder, os.getpid())
    unready = path.with_suffix(".unready")
    file = unready.open("w")  # stays open for the life of the process
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
    unready.rename(path)  # from now on the signal does not kill the process


def take_stacks(pids: Sequence[int], folder: Path, *, kill: bool) -> dict[int, str]:
    """The stacks of worker processes on this node, all asked at once; afterwards they are killed, if wanted."""
    files = {pid: stack_file(folder, pid) for pid in pids}
    written = {pid: file.stat().st_size for pid, file in files.items() if file.exists()}
    asked = [pid for pid in written if _signal(pid, signal.SIGUSR1)]
    if asked:
        time.sleep(STACKS_S)
    found = dict.fromkeys(pids, "no stacks: the worker is still starting")
    found |= dict.fromkeys(written, "the process had already ended")
    found |= {pid: _text_after(files[pid], written[pid]) or "no stacks were written" for pid in asked}
    if kill:
        for pid in pids:
            _signal(pid, signal.SIGKILL)
    return found


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _text_after(file: Path, start: int) -> str:
    return file.read_bytes()[start:].decode(errors="replace")
