"""The shards of attempts, as their events tell: kept in memory, so that a page reads only what is new.

Rule: what is kept follows from events alone, so it may be dropped at any time.
"""

import heapq
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.history.database.database import Database
from orchestrator.history.events import Event
from orchestrator.history.run_search import events_of_kinds
from orchestrator.web.drawings.heat_strip import ShardCell, ShardPoint, shard_cells

KINDS = ("shards_planned", "shards_found", "shards_done", "shards_finished")
MAX_TABLES = 24  # of attempts; 100,000 shards take about 13 MB
MISSING = -1.0
Order = Literal["slowest", "retried", "quarantined", "place"]


@dataclass(frozen=True, kw_only=True)
class ShardFact:
    """A finished shard."""

    place: int
    name: str
    seconds: float
    tries: int
    quarantined: int


@dataclass(kw_only=True)
class MapTable:
    """The shards of one map, by place."""

    label: str
    num_shards: int
    num_reused: int
    is_finished: bool = False
    names: dict[int, str] = field(default_factory=dict)
    seconds: "array[float]" = field(init=False)  # `MISSING`: not recorded
    tries: "array[int]" = field(init=False)  # 0: not recorded
    quarantined: "array[int]" = field(init=False)
    existed: bytearray = field(init=False)
    _cells: tuple[ShardCell, ...] | None = None

    def __post_init__(self) -> None:
        self.seconds = array("f", [MISSING]) * self.num_shards
        self.tries = array("H", [0]) * self.num_shards
        self.quarantined = array("L", [0]) * self.num_shards
        self.existed = bytearray(self.num_shards)

    def cells(self) -> tuple[ShardCell, ...]:
        """Neighbouring shards together; kept until there is something new."""
        if self._cells is None:
            points = (
                ShardPoint(
                    index=place,
                    seconds=0.0 if self.existed[place] else seconds if seconds >= 0 else None,
                    attempts=self.tries[place] or 1,
                    num_quarantined=self.quarantined[place],
                )
                for place, seconds in enumerate(self.seconds)
            )
            self._cells = shard_cells(points, self.num_shards)
        return self._cells

    def places(self, first: int, last: int, order: Order) -> Sequence[int]:
        """Places of the shards that were made, from `first` to `last`, that an order is about."""
        within = range(max(0, first), min(self.num_shards, last + 1))
        if order == "retried":
            return [place for place in within if self.tries[place] > 1]
        if order == "quarantined":
            return [place for place in within if self.quarantined[place]]
        return [place for place in within if self.seconds[place] >= 0]

    def first_places(self, places: Sequence[int], order: Order, limit: int) -> list[int]:
        """The first of these places in an order."""
        if order == "place":
            return list(places[:limit])
        if order == "slowest":
            return heapq.nlargest(limit, places, key=self.seconds.__getitem__)
        counts = self.tries if order == "retried" else self.quarantined
        return heapq.nlargest(limit, places, key=counts.__getitem__)

    def fact(self, place: int) -> ShardFact:
        return ShardFact(
            place=place,
            name=self.names[place],
            seconds=self.seconds[place],
            tries=self.tries[place],
            quarantined=self.quarantined[place],
        )

    def add(self, event: Event) -> None:
        self._cells = None
        fields: dict[str, Any] = event.fields
        if event.kind == "shards_finished":
            self.is_finished = True
        for first, last in fields.get("ranges", ()) if event.kind == "shards_found" else ():
            self.existed[first : last + 1] = b"\1" * (last + 1 - first)
        for place, name, seconds, tries, quarantined in fields["shards"] if event.kind == "shards_done" else ():
            if 0 <= place < self.num_shards:
                self.names[place], self.seconds[place] = name, seconds
                self.tries[place], self.quarantined[place] = min(tries, 65_535), quarantined


@dataclass(kw_only=True)
class AttemptTable:
    """The maps of one attempt, in the order in which they began."""

    read_to: int = 0  # number of the last event
    maps: list[MapTable] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, event: Event) -> None:
        label = str(event.fields.get("label", ""))
        if event.kind == "shards_planned":
            num_shards, reused = _count(event, "shards"), _count(event, "reused")
            self.maps.append(MapTable(label=label, num_shards=num_shards, num_reused=reused))
        else:
            table = next((table for table in reversed(self.maps) if table.label == label), None)
            if table is not None:
                table.add(event)
        self.read_to = max(self.read_to, event.sequence)


@dataclass(kw_only=True)
class ShardTables:
    """The attempts that were looked at last. Thread-safe."""

    _known: OrderedDict[str, AttemptTable] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of_attempt(self, database: Database, run_id: str, stage_id: str, attempt_id: str) -> AttemptTable:
        """Up to date."""
        with self._lock:
            table = self._known.pop(attempt_id, None) or AttemptTable()
            self._known[attempt_id] = table
            while len(self._known) > MAX_TABLES:
                self._known.popitem(last=False)
        with table.lock:
            for event in events_of_kinds(database, run_id, KINDS, stages=[stage_id], after=table.read_to):
                if event.attempt_id == attempt_id:
                    table.add(event)
        return table


def _count(event: Event, name: str) -> int:
    value = event.fields.get(name)
    return value if isinstance(value, int) and value >= 0 else 0
