"""Trains a program on Ray Train workers and gives back the committed checkpoint of the last step.

Ray Train starts the workers and their process group; everything that must not be lost is ours: the checkpoints are
committed in the store, and a failed group ends the attempt, so that one policy decides about retries.
"""

import faulthandler
import logging
import os
import shutil
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from orchestrator.errors import CancelledError, HangError, NodeLostError, OrchestratorError
from orchestrator.stage import Checkpoint, Checkpoints, StageContext
from stages.training.checkpoint_files import PROGRESS_FILE
from stages.training.config import LoopConfig
from stages.training.nodes import answering_nodes, on_node
from stages.training.program import ProgramClass, Task
from stages.training.worker_reports import Mail, Mailbox

logger = logging.getLogger(__name__)

POLL_S = 0.5  # how often the driver looks into the mailbox
REPORT_S = 0.5  # how often a worker sends what it has
STACKS_S = 2.0  # time to write stacks before a hung worker is killed


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    checkpoint: Checkpoint  # of the last step
    metrics: dict[str, float]  # of the last step that this attempt made; empty if it made none


def train(program_class: ProgramClass[Task], task: Task, loop: LoopConfig, context: StageContext) -> TrainingResult:
    """Train to the last step, continuing from the newest committed checkpoint of this stage.

    Each worker builds `program_class(task, device)`, so the class must stand at the top of an importable module.

    Raises: CancelledError after a clean stop; NodeLostError if a worker died; HangError if no step ended for
    `retry.hang_after_s`; whatever a worker raised on purpose; RuntimeError with the worker's traceback otherwise.
    """
    latest = context.checkpoints.latest()
    metrics: dict[str, float] = {}
    if latest is None or latest.step < loop.steps:
        metrics = _run_group(program_class, task, loop, context)
        latest = context.checkpoints.latest()
    if latest is None or latest.step < loop.steps:
        if context.stop_requested():
            raise CancelledError(f"{context.stage_id}: stopped at step {latest.step if latest else 0} of {loop.steps}")
        raise NodeLostError(f"{context.stage_id}: the workers ended before step {loop.steps} without an error")
    shutil.copyfile(latest.path / PROGRESS_FILE, context.output / PROGRESS_FILE)  # what a trace reads
    return TrainingResult(checkpoint=latest, metrics=metrics)


class _MailboxReporter:
    """A worker's side of the mailbox: sends in batches and never waits for an answer."""

    def __init__(self, mailbox: Any, rank: int) -> None:
        self._mailbox, self._rank = mailbox, rank
        self._steps: list[tuple[int, dict[str, float]]] = []
        self._sent_at = 0.0
        self._pending: Any = None
        self._stop = False

    def started(self, step: int) -> None:
        node_id = ray.get_runtime_context().get_node_id()
        self._mailbox.register.remote(self._rank, node_id, os.getpid())
        self.step(step, {})

    def step(self, step: int, metrics: dict[str, float]) -> None:
        if self._rank == 0:
            self._steps.append((step, metrics))
        if time.monotonic() - self._sent_at >= REPORT_S:
            self.flush()

    def flush(self) -> None:
        if self._pending is not None and ray.wait([self._pending], timeout=0)[0]:
            self._stop = ray.get(self._pending)
        self._pending = self._mailbox.send.remote(self._steps)
        self._steps, self._sent_at = [], time.monotonic()

    def close(self) -> None:
        """Send the rest and wait until it has arrived: the worker's process ends right after."""
        self.flush()
        ray.wait([self._pending], timeout=10)

    def stop_requested(self) -> bool:
        return self._stop


def _worker(settings: dict[str, Any]) -> None:
    """The train function of one Ray Train worker."""
    import torch

    from stages.training.loop import Place, run_worker

    torch.set_num_threads(max(1, int(settings["cpus"])))
    dump_stacks_on_signal(Path(settings["stacks"]))
    context = ray.train.get_context()
    place = Place(rank=context.get_world_rank(), world=context.get_world_size(), device=ray.train.torch.get_device())
    reporter = _MailboxReporter(settings["mailbox"], place.rank)
    checkpoints: Checkpoints = settings["checkpoints"]
    try:
        run_worker(
            settings["program_class"],
            settings["task"],
            settings["loop"],
            retry=settings["retry"],
            checkpoints=checkpoints,
            reporter=reporter,
            place=place,
        )
    except Exception as error:
        # Ray Train flattens errors into text: the one that explains the failure travels beside it.
        if isinstance(error, OrchestratorError):
            ray.get(settings["mailbox"].fail.remote(error))
        raise
    finally:
        reporter.close()


class _Trainer(ray.train.torch.TorchTrainer):
    """Ray Train without the helper processes that we have no use for; each costs seconds of a core to start.

    No data set goes through Ray Train, and placement groups end with the driver's job.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in unused]


def _run_group(
    program_class: ProgramClass[Task], task: Task, loop: LoopConfig, context: StageContext
) -> dict[str, float]:
    context.connect_ray()
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")  # ours go to the tracker
    if len(ray.nodes()) == 1:  # nobody drains the only node
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    here = on_node(ray.get_runtime_context().get_node_id())  # the mailbox shares the fate of its reader
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
    resources = context.resources
    per_worker = {"CPU": resources.cpus, "GPU": resources.gpus}
    trainer = _Trainer(
        _worker,
        train_loop_config={
            "program_class": program_class,
            "task": task,
            "loop": loop,
            "retry": context.retry,
            "checkpoints": context.checkpoints,
            "mailbox": mailbox,
            "cpus": resources.cpus,
            "stacks": str(context.scratch),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=(resources.min_workers, resources.workers) if resources.min_workers else resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={name: amount for name, amount in per_worker.items() if amount},
        ),
        run_config=ray.train.RunConfig(
            name=context.attempt_id,
            storage_path=str(context.scratch / "ray_train"),
            failure_config=ray.train.FailureConfig(max_failures=0),
        ),
    )
    watch = _Watch(mailbox, loop, context)
    with ThreadPoolExecutor(1, thread_name_prefix=f"fit-{context.stage_id}") as pool:
        fitting = pool.submit(trainer.fit)
        while not wait([fitting], timeout=POLL_S).done:
            watch.look()
    watch.look()
    _raise_cause(fitting.exception(), watch)
    return watch.metrics


def _raise_cause(error: BaseException | None, watch: "_Watch") -> None:
    """Raise what really ended the group; `error` is what `fit` raised."""
    if watch.hung is not None:
        raise HangError(watch.hung) from error
    if error is None:
        return
    if watch.error is not None:
        raise watch.error from error
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})  # only a WorkerGroupError has them
    nodes = {rank: node_id for rank, (node_id, _) in watch.processes.items()}
    answering = answering_nodes()
    if lost := sorted(rank for rank, node_id in nodes.items() if node_id not in answering):
        workers = ", ".join(f"worker {rank} on node {nodes[rank][:12]}" for rank in lost)
        raise NodeLostError(f"nodes of training workers do not answer any more: {workers}") from error
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "health_check_failure", failure)  # only a WorkerHealthCheckFailedError has one
        if type(cause).__name__ in {"ActorDiedError", "RayActorError", "ActorUnavailableError", "NodeDiedError"}:
            raise NodeLostError(f"training worker {rank} died: {_first_line(cause)}") from error
    raise RuntimeError(str(next(iter(failures.values()), error))) from error


class _Watch:
    """Reads the mailbox, passes metrics and progress on, and ends a group that makes no progress."""

    def __init__(self, mailbox: Any, loop: LoopConfig, context: StageContext) -> None:
        self._mailbox, self._loop, self._context = mailbox, loop, context
        self._moved_at = time.monotonic()
        self.metrics: dict[str, float] = {}
        self.error: Exception | None = None
        self.processes: Mapping[int, tuple[str, int]] = {}  # rank -> node id, process id
        self.hung: str | None = None

    def look(self) -> None:
        try:
            asked = self._mailbox.collect.remote(self._context.stop_requested())
            mail: Mail = ray.get(asked, timeout=30)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            logger.warning("%s: the mailbox does not answer: %s", self._context.stage_id, _first_line(error))
            return
        self.error, self.processes = mail.error, mail.processes
        for step, metrics in mail.steps:
            self._moved_at = time.monotonic()
            if metrics:
                self.metrics = metrics
                self._context.tracker.log_metrics(metrics, step=step)
            self._context.tracker.progress(step, self._loop.steps, "steps")
        idle_s = time.monotonic() - self._moved_at
        if self.hung is None and idle_s > self._context.retry.hang_after_s:
            self._end_hung_group(idle_s)

    def _end_hung_group(self, idle_s: float) -> None:
        stage = self._context.stage_id
        self.hung = (
            f"{stage}: no training step ended for {idle_s:.0f} s; the workers were killed, their stacks are logged"
        )
        for rank, (node_id, pid) in sorted(self.processes.items()):
            try:
                there = _end_process.options(scheduling_strategy=on_node(node_id))
                ended = there.remote(pid, str(self._context.scratch))
                logger.error("%s: stacks of hung worker %d:\n%s", stage, rank, ray.get(ended, timeout=60))
            except ray.exceptions.RayError as error:
                logger.error("%s: hung worker %d cannot be reached: %s", stage, rank, _first_line(error))


@ray.remote(num_cpus=0)
def _end_process(pid: int, stacks: str) -> str:
    """Runs on the worker's own node: ask for its stacks, then end it."""
    file = stack_file(Path(stacks), pid)
    try:
        os.kill(pid, signal.SIGUSR1)
        time.sleep(STACKS_S)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return "the process had ended"
    return file.read_text() if file.exists() else "it wrote none"


def stack_file(folder: Path, pid: int) -> Path:
    return folder / f"stacks-{pid}.txt"


def dump_stacks_on_signal(folder: Path) -> None:
    """From now on SIGUSR1 makes this process write the stacks of all its threads."""
    folder.mkdir(parents=True, exist_ok=True)
    file = stack_file(folder, os.getpid()).open("w")  # stays open for the life of the process
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
