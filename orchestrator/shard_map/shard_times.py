"""Records how long each shard took, how often it was tried and what was quarantined, as events of many shards each.

    shards_found   {label, ranges: [[first, last], ...]}    places in the map of those that existed
    shards_done    {label, shards: [[place, name, seconds, tries, quarantined], ...]}

A page draws them; nothing else depends on them. Seconds are those of the call, with its record; the shards of a group
share its time.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from orchestrator.artifact import JSON
from orchestrator.shard_map.pending import PendingShard
from orchestrator.stage import Tracker

FLUSH_S = 5.0  # between two events
MAX_SHARDS = 250  # of an event
MAX_RANGES = 1000  # with more, what existed is not told apart


class ShardTimes:
    """The shards of one map. `places`: of each fingerprint, counted from 0. `clock`: seconds that only rise."""

    def __init__(
        self, tracker: Tracker, label: str, places: Mapping[str, int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tracker, self._label, self._places, self._clock = tracker, label, places, clock
        self._done: list[JSON] = []
        self._flushed_at = clock()

    def found(self, fingerprints: Iterable[str]) -> None:
        """Record which shards existed."""
        ranges = ranges_of(self._places[fingerprint] for fingerprint in fingerprints)
        if 0 < len(ranges) <= MAX_RANGES:
            self._tracker.log_event("shards_found", {"label": self._label, "ranges": [list(pair) for pair in ranges]})

    def done(self, pending: PendingShard, *, seconds: float, quarantined: int) -> None:
        tries = 1 + pending.deaths + pending.infra_failures + pending.unknown_failures
        place = self._places[pending.fingerprint]
        self._done.append([place, pending.shard.name, round(seconds, 3), tries, quarantined])
        if len(self._done) >= MAX_SHARDS or self._clock() - self._flushed_at >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        self._flushed_at = self._clock()
        done, self._done = self._done, []
        if done:
            self._tracker.log_event("shards_done", {"label": self._label, "shards": done})


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ranges, first to last, of neighbouring numbers."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
