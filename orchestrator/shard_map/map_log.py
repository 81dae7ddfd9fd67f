"""What a map writes into the log of its attempt: its plan, its progress with the counts of its shards, its end."""

import logging
import time
from collections.abc import Callable, Iterable

from orchestrator.shards import ShardOutcome

log = logging.getLogger(__name__)

PROGRESS_S = 10.0  # between two lines
MAX_COUNTS = 12  # of a line


class MapLog:
    """The lines of one map. The counts are the metrics of its shards, such as verdicts, summed up."""

    def __init__(
        self, where: str, *, num_shards: int, num_items: int, unit: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`where`: the stage and the label of the map."""
        self._where, self._num_shards, self._num_items, self._unit = where, num_shards, num_items, unit
        self._clock = clock
        self._began_at = self._logged_at = clock()
        self._counts: dict[str, float] = {}
        self._num_done = self._num_quarantined = 0

    def planned(self, found: Iterable[ShardOutcome], *, num_missing: int, workers: int) -> None:
        for outcome in found:
            self._add(outcome)
        made = f"{self._num_done} of them exist, {num_missing} to make" if self._num_done else "all to make"
        how = f" with up to {workers} workers" if num_missing else ""
        log.info("%s: %d shards of %d %s, %s%s", self._where, self._num_shards, self._num_items, self._unit, made, how)

    def recorded(self, outcome: ShardOutcome, *, items_done: int, items_made: int) -> None:
        """`items_done` of the map; `items_made` of them since it began."""
        self._add(outcome)
        now = self._clock()
        if now - self._logged_at < PROGRESS_S:
            return
        self._logged_at = now
        rate = items_made / max(now - self._began_at, 1e-9)
        left = f", {(self._num_items - items_done) / rate:.0f} s left" if rate else ""
        log.info(
            "%s: %d of %d shards, %d of %d %s, %.3g/s%s%s",
            self._where,
            self._num_done,
            self._num_shards,
            items_done,
            self._num_items,
            self._unit,
            rate,
            left,
            self._counts_text(),
        )

    def finished(self) -> None:
        spent_s = self._clock() - self._began_at
        log.info("%s: %d shards done in %.1f s%s", self._where, self._num_done, spent_s, self._counts_text())

    def _add(self, outcome: ShardOutcome) -> None:
        self._num_done += 1
        self._counts["rows"] = self._counts.get("rows", 0) + outcome.rows
        self._num_quarantined += len(outcome.quarantined)
        for name, value in outcome.metrics.items():
            if name not in ("rows", "quarantined"):
                self._counts[name] = self._counts.get(name, 0) + value

    def _counts_text(self) -> str:
        largest = sorted(self._counts.items(), key=lambda count: count[1], reverse=True)[:MAX_COUNTS]
        counts = [*largest, ("quarantined", self._num_quarantined)]
        shown = [f"{name} {value:.10g}" for name, value in counts if value]
        return f": {', '.join(shown)}" if shown else ""
