"""A bounded pool of worker processes, each with at most one running call, so that a death has exactly one suspect."""

import itertools
import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.cluster.capacity import WorkerResources
from orchestrator.cluster.ray_cluster import Call, Cluster, WorkerProcess
from orchestrator.failures.classes import FailureReport, is_death_of_node, report_of
from orchestrator.failures.failure_class import FailureClass
from orchestrator.shard_map.shard_host import HostInfo, HostSettings, ShardHost, TimedShard
from orchestrator.shards import ShardOutcome, ShardWorker

log = logging.getLogger(__name__)

K = TypeVar("K")
# What these leave in a process (fragments, a dead GPU context) makes its later calls fail too.
_UNUSABLE_AFTER = {FailureClass.GPU_OOM, FailureClass.NODE_LOST}
STACKS_OF_HANG = b"Timeout ("  # as `faulthandler` begins them
SECONDS_TO_END = 20.0  # until the death of a hung process is known here
KEEP_S = 5.0  # how long an idle process is kept for the next map


@dataclass(frozen=True, kw_only=True)
class CallResult(Generic[K]):
    """The result of one call, or its failure."""

    key: K | None  # the key it was submitted with; None: the start of a process
    outcome: StoredShard | ShardOutcome | HostInfo | tuple[TimedShard | FailureReport, ...] | None
    seconds: float = 0.0  # from its submission to its end
    work_s: float = 0.0  # of `seconds`, without its record, if it made a shard
    error: FailureReport | None = None
    died: bool = False  # the process is gone; `error` holds what is known
    node_died: bool = False  # it is gone because its node is, or was taken away: says nothing about the call
    process: int = 0  # the number of the process in this pool
    pid: int = 0
    host: str = ""

    @property
    def place(self) -> str:
        return f"pid {self.pid} on {self.host or 'an unknown node'}"


@dataclass(kw_only=True)
class _Worker:
    process: WorkerProcess
    number: int  # unique in the pool
    pid: int = 0
    host: str = ""


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
        self._numbers = itertools.count(1)
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

    @property
    def num_starting(self) -> int:
        return len(self._calls) - self.num_running

    def grow(self, num_wanted: int) -> None:
        """Start processes until `num_wanted` more calls can run at once, at most up to the pool's size."""
        room = self.size - len(self._idle) - len(self._calls)
        for _ in range(min(room, num_wanted - len(self._idle) - self.num_starting)):
            self._start()

    def _start(self) -> None:
        process = self._idle_workers.take() or self._cluster.spawn(ShardHost, self._settings, resources=self._resources)
        worker = _Worker(process=process, number=next(self._numbers))
        self._track(worker, None, process.call("start", self._worker))

    def halve(self) -> bool:
        """Halve the pool's size; surplus idle processes end now, busy ones after their call. False if the size is 1."""
        if self.size == 1:
            return False
        self.size = max(1, self.size // 2)
        while self._idle and len(self._idle) + len(self._calls) > self.size:
            self._idle.pop().process.kill()
        return True

    def idle_process(self, avoid: Collection[int] = (), last_place: str = "") -> int | None:
        """The number of an idle process not in `avoid`, on another node than `last_place` if there is one."""
        allowed = [worker for worker in reversed(self._idle) if worker.number not in avoid]
        elsewhere = [worker for worker in allowed if last_place and not last_place.endswith(f" on {worker.host}")]
        return next((worker.number for worker in (*elsewhere, *allowed)), None)

    def is_idle(self, process: int) -> bool:
        return any(worker.number == process for worker in self._idle)

    def submit(self, key: K, method: str, argument: object, process: int) -> None:
        """Call a method on the process with this number, which is idle."""
        worker = next(worker for worker in self._idle if worker.number == process)
        self._idle.remove(worker)
        self._track(worker, key, worker.process.call(method, argument))

    def end(self, process: int) -> None:
        """End the process with this number if it is idle, so that another one can take its place."""
        for worker in [worker for worker in self._idle if worker.number == process]:
            self._idle.remove(worker)
            worker.process.kill()

    def add_process(self, avoid: Collection[int]) -> None:
        """Start a process where only those in `avoid` are idle, in the place of one of them if the pool is full."""
        working = [running.worker.number for running in self._calls.values()]
        if any(running.key is None for running in self._calls.values()):
            return  # one is starting
        if len(self._idle) + len(working) >= self.size:
            if not self._idle or any(number not in avoid for number in working):
                return  # wait for those that are at work
            self.end(self._idle[0].number)
        self._start()

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
            return self._death_result(running, report_of(error), node_died=is_death_of_node(error))
        if isinstance(answer, HostInfo):
            worker.pid, worker.host = answer.pid, answer.host
        failed_start = running.key is None and isinstance(answer, FailureReport)
        answers = answer if isinstance(answer, tuple) else (answer,)
        unusable = any(isinstance(part, FailureReport) and part.failure in _UNUSABLE_AFTER for part in answers)
        if failed_start or unusable or len(self._idle) + len(self._calls) >= self.size:
            worker.process.kill()
        else:
            self._idle.append(worker)
        error_report = answer if isinstance(answer, FailureReport) else None
        outcome, work_s = (answer.stored, answer.work_s) if isinstance(answer, TimedShard) else (answer, 0.0)
        return CallResult(
            key=running.key,
            outcome=None if error_report else outcome,
            seconds=time.monotonic() - running.started_at,
            work_s=work_s,
            error=error_report,
            process=worker.number,
            pid=worker.pid,
            host=worker.host,
        )

    def _ended_itself(self, worker: _Worker, elapsed_s: float) -> bool:
        """Whether a dead process hung: it writes its stacks and ends itself, which else looks like a kill."""
        limit_s = self._settings.hang_after_s
        logs = self._settings.logs
        log_file = logs.path(f"worker-{worker.pid}") if logs is not None else None
        if log_file is not None and log_file.is_file():
            return elapsed_s >= limit_s and STACKS_OF_HANG in log_file.read_bytes()
        return limit_s <= elapsed_s < limit_s + SECONDS_TO_END  # its log is on its node: it never made progress

    def _death_result(self, running: _RunningCall[K], report: FailureReport, *, node_died: bool) -> CallResult[K]:
        running.worker.process.kill()
        elapsed_s = time.monotonic() - running.started_at
        is_at_work = running.key is not None  # else it may have waited for its node
        if report.failure is FailureClass.NODE_LOST and is_at_work and self._ended_itself(running.worker, elapsed_s):
            report = FailureReport(
                failure=FailureClass.HANG,
                summary=f"no sign of life for {self._settings.hang_after_s:g} s",
                place="",
                traceback=f"the stacks are in the log of the worker with pid {running.worker.pid}",
            )
        worker = running.worker
        return CallResult(
            key=running.key,
            outcome=None,
            error=report,
            died=True,
            node_died=node_died,
            process=worker.number,
            pid=worker.pid,
            host=worker.host,
        )
