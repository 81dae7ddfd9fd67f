"""A bounded set of worker processes, each with at most one call under way, so that a death has exactly one suspect."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator.artifacts.shard_ledger import StoredShard
from orchestrator.cluster.ray_cluster import Call, Cluster, WorkerNeeds, WorkerProcess
from orchestrator.failures.classes import FailureClass, FailureReport, report_of
from orchestrator.shard_map.shard_host import HostInfo, HostSettings, ShardHost
from orchestrator.shards import ShardOutcome, ShardWorker

log = logging.getLogger(__name__)

K = TypeVar("K")
KEEP_S = 5.0  # how long an idle process waits for the next map


@dataclass(frozen=True, kw_only=True)
class Ended(Generic[K]):
    """How one call went."""

    key: K | None  # what it was submitted under; None: a process that was starting
    outcome: StoredShard | ShardOutcome | HostInfo | None
    error: FailureReport | None = None
    died: bool = False  # the process is gone; `error` says what is known
    pid: int = 0


@dataclass(kw_only=True)
class _Member:
    process: WorkerProcess
    pid: int = 0


@dataclass(frozen=True, kw_only=True)
class _Running(Generic[K]):
    member: _Member
    key: K | None
    since: float


class Spares:
    """Idle processes that the next map of an attempt goes on with, as starting one takes seconds.

    All maps of an attempt have the same settings and needs. Context manager: leaving it kills them.
    """

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._processes: list[WorkerProcess] = []
        self._timer: threading.Timer | None = None
        self._closed = False

    def __enter__(self) -> "Spares":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        self._let_go()

    def put(self, process: WorkerProcess) -> None:
        """Keep it for a moment; others may need what it occupies."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if not self._closed:
                self._processes.append(process)
                self._timer = threading.Timer(self._keep_s, self._let_go)
                self._timer.daemon = True
                self._timer.start()
                return
        process.kill()

    def take(self) -> WorkerProcess | None:
        with self._lock:
            return self._processes.pop() if self._processes else None

    def _let_go(self) -> None:
        with self._lock:
            processes, self._processes = self._processes, []
        for process in processes:
            process.kill()


class WorkerPool(Generic[K]):
    """Processes are started when there is work for them. Context manager: leaving it ends them all.

    `spares`: idle processes are taken from there first, and left there in the end, those with GPUs aside: of what was
    loaded onto one, something always remains.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: HostSettings,
        worker: ShardWorker,
        *,
        size: int,
        needs: WorkerNeeds,
        spares: Spares,
    ) -> None:
        self._cluster, self._settings, self._needs = cluster, settings, needs
        self._worker, self._spares = worker, spares
        self.size = size
        self._idle: list[_Member] = []
        self._calls: dict[Call, _Running[K]] = {}

    def __enter__(self) -> "WorkerPool[K]":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        keep = error is None and not self._needs.gpus
        for member in self._idle:
            if keep:
                self._spares.put(member.process)
            else:
                member.process.kill()
        for running in self._calls.values():
            running.member.process.kill()
        self._idle, self._calls = [], {}

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    @property
    def num_under_way(self) -> int:
        """Shards and trials, not starting processes."""
        return sum(running.key is not None for running in self._calls.values())

    def grow(self, wanted: int) -> None:
        """Start processes until `wanted` calls, or as many as the pool may have, can run at once."""
        starting = len(self._calls) - self.num_under_way
        room = self.size - len(self._idle) - len(self._calls)
        for _ in range(min(room, wanted - len(self._idle) - starting)):
            process = self._spares.take() or self._cluster.spawn(ShardHost, self._settings, needs=self._needs)
            self._follow(_Member(process=process), None, process.call("start", self._worker))

    def halve(self) -> bool:
        """From now on keep at most half as many processes; False if there is only one left."""
        if self.size == 1:
            return False
        self.size = max(1, self.size // 2)
        while self._idle and len(self._idle) + len(self._calls) > self.size:
            self._idle.pop().process.kill()
        return True

    def submit(self, key: K, method: str, argument: object) -> None:
        """Needs an idle process."""
        member = self._idle.pop()
        self._follow(member, key, member.process.call(method, argument))

    def wait(self, timeout_s: float) -> list[Ended[K]]:
        """The calls that have ended, as soon as one has; none after `timeout_s`."""
        if not self._calls:
            time.sleep(timeout_s)
            return []
        return [self._end(call) for call in self._cluster.wait(list(self._calls), timeout_s)]

    def _follow(self, member: _Member, key: K | None, call: Call) -> None:
        self._calls[call] = _Running(member=member, key=key, since=time.monotonic())

    def _end(self, call: Call) -> Ended[K]:
        running = self._calls.pop(call)
        member = running.member
        try:
            answer = call.result()
        except Exception as error:  # noqa: BLE001 - every error of Ray's own means that the process cannot be used
            return self._buried(running, report_of(error))
        if isinstance(answer, HostInfo):
            member.pid = answer.pid
        failed_start = running.key is None and isinstance(answer, FailureReport)
        spoiled = isinstance(answer, FailureReport) and answer.failure is FailureClass.GPU_OOM
        if failed_start or spoiled or len(self._idle) + len(self._calls) >= self.size:
            member.process.kill()
        else:
            self._idle.append(member)
        error_report = answer if isinstance(answer, FailureReport) else None
        return Ended(key=running.key, outcome=None if error_report else answer, error=error_report, pid=member.pid)

    def _buried(self, running: _Running[K], report: FailureReport) -> Ended[K]:
        running.member.process.kill()
        silent_s = time.monotonic() - running.since
        if report.failure is FailureClass.NODE_LOST and silent_s >= self._settings.hang_after_s:
            # The process ends itself when it hangs; nothing else tells this apart from being killed.
            report = FailureReport(
                failure=FailureClass.HANG,
                summary=f"no sign of life for {self._settings.hang_after_s:g} s",
                place="",
                traceback=f"the stacks are in the log of the worker with pid {running.member.pid}",
            )
        return Ended(key=running.key, outcome=None, error=report, died=True, pid=running.member.pid)
