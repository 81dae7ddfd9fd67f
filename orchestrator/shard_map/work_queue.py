"""The work of a map that waits for a process: trials and probes before whole shards, each not before its time."""

import heapq
import itertools
import time

from orchestrator.shard_map.pending import WorkItem


class WorkQueue:
    """Used from one thread. Its length is the number of items that may run now."""

    def __init__(self) -> None:
        self._ready: list[tuple[bool, int, WorkItem]] = []  # heap: trials and probes before whole shards
        self._delayed: list[tuple[float, int, WorkItem]] = []  # heap by the time from which it may run
        self._sequence = itertools.count(1)

    def __len__(self) -> int:
        return len(self._ready)

    def push(self, work_item: WorkItem, wait_s: float = 0.0) -> None:
        """Add an item that may run in `wait_s` seconds."""
        order = next(self._sequence)
        if wait_s:
            heapq.heappush(self._delayed, (time.monotonic() + wait_s, order, work_item))
        else:
            heapq.heappush(self._ready, (work_item.mode == "shard", order, work_item))

    def put_back(self, work_item: WorkItem) -> None:
        """Return an item that was popped; it is before all others of its sort."""
        heapq.heappush(self._ready, (work_item.mode == "shard", -next(self._sequence), work_item))

    def take_due(self) -> None:
        """Let the items run whose wait is over."""
        now = time.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            self.push(heapq.heappop(self._delayed)[2])

    @property
    def first(self) -> WorkItem | None:
        """The item that `pop` returns."""
        return self._ready[0][2] if self._ready else None

    def pop(self) -> WorkItem:
        """Raises: IndexError: no item may run now."""
        return heapq.heappop(self._ready)[2]
