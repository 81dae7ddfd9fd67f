"""Trains a program on Ray Train workers and returns the committed checkpoint of the last step.

Ray Train only starts the workers and their process group. Checkpoints are committed in the store, and a failed worker
group ends the attempt, so that one policy decides about retries.
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
from stages.training.nodes import on_node, responding_nodes
from stages.training.program import ProgramClass, Task
from stages.training.worker_reports import Report, WorkerReports

logger = logging.getLogger(__name__)

POLL_S = 0.5  # between two polls of the worker reports by the driver
REPORT_S = 0.5  # between two reports of a worker
STACKS_S = 2.0  # time for a hung worker to write its stacks before it is killed


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    checkpoint: Checkpoint  # of the last step
    metrics: dict[str, float]  # of the last step of this attempt; empty if it made none


def train(program_class: ProgramClass[Task], task: Task, loop: LoopConfig, context: StageContext) -> TrainingResult:
    """Train to the last step, continuing from the newest committed checkpoint of this stage.

    Each worker builds `program_class(task, device)`, so the class must be at the top level of an importable module.

    Raises: CancelledError after a clean stop; NodeLostError if a worker died; HangError if no step ended for
    `retry.hang_after_s`; the OrchestratorError of a worker; RuntimeError with the worker's traceback otherwise.
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
    shutil.copyfile(latest.path / PROGRESS_FILE, context.output / PROGRESS_FILE)  # read by `illume trace`
    return TrainingResult(checkpoint=latest, metrics=metrics)


class _RemoteReporter:
    """The `Reporter` of a worker: sends to the `WorkerReports` actor in batches and never waits for a reply."""

    def __init__(self, reports: Any, rank: int) -> None:
        self._reports, self._rank = reports, rank
        self._steps: list[tuple[int, dict[str, float]]] = []
        self._sent_at = 0.0
        self._pending: Any = None
        self._stop = False

    def started(self, step: int) -> None:
        node_id = ray.get_runtime_context().get_node_id()
        self._reports.register.remote(self._rank, node_id, os.getpid())
        self.step(step, {})

    def step(self, step: int, metrics: dict[str, float]) -> None:
        if self._rank == 0:
            self._steps.append((step, metrics))
        if time.monotonic() - self._sent_at >= REPORT_S:
            self.flush()

    def flush(self) -> None:
        if self._pending is not None and ray.wait([self._pending], timeout=0)[0]:
            self._stop = ray.get(self._pending)
        self._pending = self._reports.send.remote(self._steps)
        self._steps, self._sent_at = [], time.monotonic()

    def close(self) -> None:
        """Send the rest and wait until it has arrived, as the worker's process ends right after."""
        self.flush()
        ray.wait([self._pending], timeout=10)

    def stop_requested(self) -> bool:
        return self._stop


def _worker(settings: dict[str, Any]) -> None:
    """The train function of one Ray Train worker."""
    import torch

    from stages.training.loop import WorkerRank, run_worker

    torch.set_num_threads(max(1, int(settings["cpus"])))
    dump_stacks_on_signal(Path(settings["stacks"]))
    context = ray.train.get_context()
    worker = WorkerRank(
        rank=context.get_world_rank(), world_size=context.get_world_size(), device=ray.train.torch.get_device()
    )
    reporter = _RemoteReporter(settings["reports"], worker.rank)
    checkpoints: Checkpoints = settings["checkpoints"]
    try:
        run_worker(
            settings["program_class"],
            settings["task"],
            settings["loop"],
            retry=settings["retry"],
            checkpoints=checkpoints,
            reporter=reporter,
            worker=worker,
        )
    except Exception as error:
        # Ray Train turns errors into text, so the error object is sent separately.
        if isinstance(error, OrchestratorError):
            ray.get(settings["reports"].fail.remote(error))
        raise
    finally:
        reporter.close()


class _Trainer(ray.train.torch.TorchTrainer):
    """Ray Train without its unused helper processes; each takes seconds of a core to start.

    No dataset is read by Ray Train, and placement groups end with the driver's job.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in unused]


def _run_group(
    program_class: ProgramClass[Task], task: Task, loop: LoopConfig, context: StageContext
) -> dict[str, float]:
    context.connect_ray()
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")  # our metrics go to the tracker
    if len(ray.nodes()) == 1:  # the only node is never drained
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    this_node = on_node(ray.get_runtime_context().get_node_id())  # the actor is lost only together with its reader
    reports = ray.remote(num_cpus=0, scheduling_strategy=this_node)(WorkerReports).remote()
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
            "reports": reports,
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
    monitor = _GroupMonitor(reports, loop, context)
    with ThreadPoolExecutor(1, thread_name_prefix=f"fit-{context.stage_id}") as pool:
        fit = pool.submit(trainer.fit)
        while not wait([fit], timeout=POLL_S).done:
            monitor.poll()
    monitor.poll()
    _raise_cause(fit.exception(), monitor)
    return monitor.metrics


def _raise_cause(error: BaseException | None, monitor: "_GroupMonitor") -> None:
    """Raise the error that explains why the group ended; `error` is what `fit` raised."""
    if monitor.hung is not None:
        raise HangError(monitor.hung) from error
    if error is None:
        return
    if monitor.error is not None:
        raise monitor.error from error
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})  # only a WorkerGroupError has them
    nodes = {rank: node_id for rank, (node_id, _) in monitor.processes.items()}
    responding = responding_nodes()
    if lost := sorted(rank for rank, node_id in nodes.items() if node_id not in responding):
        workers = ", ".join(f"worker {rank} on node {nodes[rank][:12]}" for rank in lost)
        raise NodeLostError(f"nodes of training workers no longer respond: {workers}") from error
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "health_check_failure", failure)  # only a WorkerHealthCheckFailedError has one
        if type(cause).__name__ in {"ActorDiedError", "RayActorError", "ActorUnavailableError", "NodeDiedError"}:
            raise NodeLostError(f"training worker {rank} died: {_first_line(cause)}") from error
    raise RuntimeError(str(next(iter(failures.values()), error))) from error


class _GroupMonitor:
    """Polls the worker reports, passes metrics and progress on, and kills a worker group that makes no progress."""

    def __init__(self, reports: Any, loop: LoopConfig, context: StageContext) -> None:
        self._reports, self._loop, self._context = reports, loop, context
        self._progressed_at = time.monotonic()
        self.metrics: dict[str, float] = {}
        self.error: Exception | None = None
        self.processes: Mapping[int, tuple[str, int]] = {}  # rank -> node id, process id
        self.hung: str | None = None  # message, once the group was killed for making no progress

    def poll(self) -> None:
        try:
            reply = self._reports.collect.remote(self._context.stop_requested())
            report: Report = ray.get(reply, timeout=30)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            logger.warning("%s: no worker reports: %s", self._context.stage_id, _first_line(error))
            return
        self.error, self.processes = report.error, report.processes
        for step, metrics in report.steps:
            self._progressed_at = time.monotonic()
            if metrics:
                self.metrics = metrics
                self._context.tracker.log_metrics(metrics, step=step)
            self._context.tracker.progress(step, self._loop.steps, "steps")
        idle_s = time.monotonic() - self._progressed_at
        if self.hung is None and idle_s > self._context.retry.hang_after_s:
            self._kill_hung_group(idle_s)

    def _kill_hung_group(self, idle_s: float) -> None:
        stage = self._context.stage_id
        self.hung = (
            f"{stage}: no training step ended for {idle_s:.0f} s; the workers were killed, their stacks are logged"
        )
        for rank, (node_id, pid) in sorted(self.processes.items()):
            try:
                kill = _kill_process.options(scheduling_strategy=on_node(node_id))
                stacks = ray.get(kill.remote(pid, str(self._context.scratch)), timeout=60)
                logger.error("%s: stacks of hung worker %d:\n%s", stage, rank, stacks)
            except ray.exceptions.RayError as error:
                logger.error("%s: hung worker %d cannot be reached: %s", stage, rank, _first_line(error))


@ray.remote(num_cpus=0)
def _kill_process(pid: int, stacks: str) -> str:
    """The stacks of a process on this node, which is killed after writing them."""
    file = stack_file(Path(stacks), pid)
    try:
        os.kill(pid, signal.SIGUSR1)
        time.sleep(STACKS_S)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return "the process had already ended"
    return file.read_text() if file.exists() else "no stacks were written"


def stack_file(folder: Path, pid: int) -> Path:
    return folder / f"stacks-{pid}.txt"


def dump_stacks_on_signal(folder: Path) -> None:
    """Make this process write the stacks of all its threads to `stack_file` when it gets SIGUSR1."""
    folder.mkdir(parents=True, exist_ok=True)
    file = stack_file(folder, os.getpid()).open("w")  # stays open for the life of the process
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
