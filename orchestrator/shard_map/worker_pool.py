"""A bounded pool of worker processes, each with at most one running call, so that a death has exactly one suspect."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator.artifacts.shard_ledger import StoredShard
from orchestrator.cluster.ray_cluster import Call, Cluster, WorkerProcess, WorkerResources
from orchestrator.failures.classes import FailureReport, report_of
from orchestrator.failures.failure_class import FailureClass
from orchestrator.shard_map.shard_host import HostInfo, HostSettings, ShardHost
from orchestrator.shards import ShardOutcome, ShardWorker

log = logging.getLogger(__name__)

K = TypeVar("K")
KEEP_S = 5.0  # how long an idle process is kept for the next map


@dataclass(frozen=True, kw_only=True)
class CallResult(Generic[K]):
    """The result of one call, or its failure."""

    key: K | None  # the key it was submitted with; None: the start of a process
    outcome: StoredShard | ShardOutcome | HostInfo | None
    error: FailureReport | None = None
    died: bool = False  # the process is gone; `error` holds what is known
    pid: int = 0


@dataclass(kw_only=True)
class _Worker:
    process: WorkerProcess
    pid: int = 0


@dataclass(frozen=True, kw_only=True)
class _RunningCall(Generic[K]):
    worker: _Worker
    key: K | None
    started_at: float  # on the monotonic clock


class IdleWorkers:
    """Keeps idle worker processes for reuse by the attempt's next map; starting one takes seconds.

    All maps of an attempt have the same settings and needs. Context manager: leaving it kills the processes.
    """

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._processes: list[WorkerProcess] = []
        self._timer: threading.Timer | None = None
        self._closed = False

    def __enter__(self) -> "IdleWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        self._kill_all()

    def put(self, process: WorkerProcess) -> None:
        """Keep the process for `keep_s`, then kill it: others may need its resources. Killed at once after the exit."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if not self._closed:
                self._processes.append(process)
                self._timer = threading.Timer(self._keep_s, self._kill_all)
                self._timer.daemon = True
                self._timer.start()
                return
        process.kill()

    def take(self) -> WorkerProcess | None:
        with self._lock:
            return self._processes.pop() if self._processes else None

    def _kill_all(self) -> None:
        with self._lock:
            processes, self._processes = self._processes, []
        for process in processes:
            process.kill()


class WorkerPool(Generic[K]):
    """A pool that starts processes when there are calls for them. Context manager: leaving it ends its processes.

    Idle processes are taken from `idle_workers` first and returned there at a clean exit, except those with GPUs: part
    of what was loaded onto a GPU always stays there.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: HostSettings,
        worker: ShardWorker,
        *,
        size: int,
        resources: WorkerResources,
        idle_workers: IdleWorkers,
    ) -> None:
        self._cluster, self._settings, self._resources = cluster, settings, resources
        self._worker, self._idle_workers = worker, idle_workers
        self.size = size
        self._idle: list[_Worker] = []
        self._calls: dict[Call, _RunningCall[K]] = {}

    def __enter__(self) -> "WorkerPool[K]":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        keep = error is None and not self._resources.gpus
        for worker in self._idle:
            if keep:
                self._idle_workers.put(worker.process)
            else:
                worker.process.kill()
        for running in self._calls.values():
            running.worker.process.kill()
        self._idle, self._calls = [], {}

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    @property
    def num_running(self) -> int:
        """The number of running shards and trials, without starting processes."""
        return sum(running.key is not None for running in self._calls.values())

    def grow(self, num_wanted: int) -> None:
        """Start processes until `num_wanted` more calls can run at once, at most up to the pool's size."""
        starting = len(self._calls) - self.num_running
        room = self.size - len(self._idle) - len(self._calls)
        for _ in range(min(room, num_wanted - len(self._idle) - starting)):
            process = self._idle_workers.take() or self._cluster.spawn(
                ShardHost, self._settings, resources=self._resources
            )
            self._track(_Worker(process=process), None, process.call("start", self._worker))

    def halve(self) -> bool:
        """Halve the pool's size; surplus idle processes end now, busy ones after their call. False if the size is 1."""
        if self.size == 1:
            return False
        self.size = max(1, self.size // 2)
        while self._idle and len(self._idle) + len(self._calls) > self.size:
            self._idle.pop().process.kill()
        return True

    def submit(self, key: K, method: str, argument: object) -> None:
        """Call a method on an idle process; there must be one."""
        worker = self._idle.pop()
        self._track(worker, key, worker.process.call(method, argument))

    def wait(self, timeout_s: float) -> list[CallResult[K]]:
        """Wait until a call ends and return the results of all that ended; empty after `timeout_s`."""
        if not self._calls:
            time.sleep(timeout_s)
            return []
        return [self._collect(call) for call in self._cluster.wait(list(self._calls), timeout_s)]

    def _track(self, worker: _Worker, key: K | None, call: Call) -> None:
        self._calls[call] = _RunningCall(worker=worker, key=key, started_at=time.monotonic())

    def _collect(self, call: Call) -> CallResult[K]:
        running = self._calls.pop(call)
        worker = running.worker
        try:
            answer = call.result()
        except Exception as error:  # noqa: BLE001 - any error of Ray means that the process cannot be used
            return self._death_result(running, report_of(error))
        if isinstance(answer, HostInfo):
            worker.pid = answer.pid
        failed_start = running.key is None and isinstance(answer, FailureReport)
        out_of_memory = isinstance(answer, FailureReport) and answer.failure is FailureClass.GPU_OOM
        if failed_start or out_of_memory or len(self._idle) + len(self._calls) >= self.size:
            worker.process.kill()
        else:
            self._idle.append(worker)
        error_report = answer if isinstance(answer, FailureReport) else None
        return CallResult(key=running.key, outcome=None if error_report else answer, error=error_report, pid=worker.pid)

    def _death_result(self, running: _RunningCall[K], report: FailureReport) -> CallResult[K]:
        running.worker.process.kill()
        elapsed_s = time.monotonic() - running.started_at
        if report.failure is FailureClass.NODE_LOST and elapsed_s >= self._settings.hang_after_s:
            # A hung process ends itself, which looks like a kill; only the elapsed time tells them apart.
            report = FailureReport(
                failure=FailureClass.HANG,
                summary=f"no sign of life for {self._settings.hang_after_s:g} s",
                place="",
                traceback=f"the stacks are in the log of the worker with pid {running.worker.pid}",
            )
        return CallResult(key=running.key, outcome=None, error=report, died=True, pid=running.worker.pid)
