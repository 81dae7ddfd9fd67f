"""A bounded set of worker processes, each with at most one call under way, so that a death has exactly one suspect."""

import logging
import time
from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator.failures import FailureClass, FailureReport, report_of
from orchestrator.launch import Call, Cluster, WorkerNeeds, WorkerProcess
from orchestrator.ledger import StoredShard
from orchestrator.shard_host import HostInfo, HostSettings, ShardHost
from orchestrator.shards import ShardOutcome

log = logging.getLogger(__name__)

K = TypeVar("K")


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


class WorkerPool(Generic[K]):
    """Processes are started when there is work for them. Context manager: leaving it kills them all."""

    def __init__(self, cluster: Cluster, settings: HostSettings, *, size: int, needs: WorkerNeeds) -> None:
        self._cluster, self._settings, self._needs = cluster, settings, needs
        self.size = size
        self._idle: list[_Member] = []
        self._calls: dict[Call, _Running[K]] = {}

    def __enter__(self) -> "WorkerPool[K]":
        return self

    def __exit__(self, *_: object) -> None:
        for member in [*self._idle, *(running.member for running in self._calls.values())]:
            member.process.kill()
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
            process = self._cluster.spawn(ShardHost, self._settings, needs=self._needs)
            self._follow(_Member(process=process), None, process.call("start"))

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
