"""Says when a map waits for its first worker process because the cluster has no room for it, and when that is over."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.cluster.capacity import WorkerResources, describe
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.stage import Tracker

REPORT_AFTER_S = 10.0  # a process that has room starts within this time


@dataclass(kw_only=True)
class StartWait:
    """Of one map."""

    tracker: Tracker
    cluster: Cluster
    resources: WorkerResources
    clock: Callable[[], float] = time.monotonic
    _looked_at: float | None = None  # None: nothing waits
    _reported: str = field(default="")

    def poll(self, *, num_starting: int, num_started: int) -> None:
        """To be called often, with the numbers of processes that are starting, and that have started."""
        if num_started or not num_starting:
            if self._reported:
                self.tracker.log_event("waited", {"for": self._reported})
            self._looked_at, self._reported = None, ""
            return
        now = self.clock()
        if self._looked_at is None:
            self._looked_at = now
        if self._reported or now - self._looked_at < REPORT_AFTER_S:
            return
        self._looked_at = now
        free = self.cluster.free()
        if free.room_for(self.resources) < 1:
            has = WorkerResources(cpus=free.cpus, gpus=free.gpus, memory_gib=round(free.memory_gib, 1))
            self._reported = f"room for a worker process ({describe(self.resources)}; free: {describe(has)})"
            self.tracker.log_event("waiting", {"for": self._reported})
