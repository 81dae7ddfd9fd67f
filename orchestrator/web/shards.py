"""The shards of attempts, as their events tell: kept in memory, so that a page reads only what is new.

Rule: what is kept follows from events alone, so it may be dropped at any time.
"""

import heapq
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.history.database.database import Database
from orchestrator.history.events import Event
from orchestrator.history.run_search import events_after
from orchestrator.web.drawings.heat_strip import MISSING, ShardCell, ShardColumns, shard_cells

KINDS = ("shards_planned", "shards_found", "shards_done", "shards_finished")
PAGE_EVENTS = 40  # read at one time: of 250 shards each, before they are packed into arrays
READ_S = 0.08  # of one request; the next one goes on
MAX_TABLES = 24  # of attempts; 100,000 shards take about 13 MB
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
    columns: ShardColumns = field(init=False)
    _cells: tuple[ShardCell, ...] | None = None

    def __post_init__(self) -> None:
        self.columns = ShardColumns(
            seconds=array("f", [MISSING]) * self.num_shards,
            tries=array("H", [0]) * self.num_shards,
            quarantined=array("L", [0]) * self.num_shards,
            existed=bytearray(self.num_shards),
        )

    def cells(self) -> tuple[ShardCell, ...]:
        """Neighbouring shards together; kept until there is something new."""
        if self._cells is None:
            self._cells = shard_cells(self.columns)
        return self._cells

    def places(self, first: int, last: int, order: Order) -> Sequence[int]:
        """Places of the shards that were made, from `first` to `last`, that an order is about."""
        within = range(max(0, first), min(self.num_shards, last + 1))
        if order == "retried":
            return [place for place in within if self.columns.tries[place] > 1]
        if order == "quarantined":
            return [place for place in within if self.columns.quarantined[place]]
        return [place for place in within if self.columns.seconds[place] >= 0]

    def first_places(self, places: Sequence[int], order: Order, limit: int) -> list[int]:
        """The first of these places in an order."""
        if order == "place":
            return list(places[:limit])
        if order == "slowest":
            return heapq.nlargest(limit, places, key=self.columns.seconds.__getitem__)
        counts = self.columns.tries if order == "retried" else self.columns.quarantined
        return heapq.nlargest(limit, places, key=counts.__getitem__)

    def fact(self, place: int) -> ShardFact:
        return ShardFact(
            place=place,
            name=self.names[place],
            seconds=self.columns.seconds[place],
            tries=self.columns.tries[place],
            quarantined=self.columns.quarantined[place],
        )

    def add(self, event: Event) -> None:
        self._cells = None
        fields: dict[str, Any] = event.fields
        if event.kind == "shards_finished":
            self.is_finished = True
        found = self.columns
        for first, last in fields.get("ranges", ()) if event.kind == "shards_found" else ():
            found.existed[first : last + 1] = b"\1" * (last + 1 - first)
        for place, name, seconds, tries, quarantined in fields["shards"] if event.kind == "shards_done" else ():
            if 0 <= place < self.num_shards:
                self.names[place], found.seconds[place], found.existed[place] = name, seconds, 0
                found.tries[place], found.quarantined[place] = min(tries, 65_535), quarantined


@dataclass(kw_only=True)
class AttemptTable:
    """The maps of one attempt, in the order in which they began."""

    read_to: int = 0  # number of the last event
    is_complete: bool = False  # all events have been read, as of the last look
    maps: list[MapTable] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, event: Event, attempt_id: str) -> None:
        """Take an event of the stage; only those of the attempt count."""
        self.read_to = event.sequence
        if event.attempt_id != attempt_id:
            return
        label = str(event.fields.get("label", ""))
        if event.kind == "shards_planned":
            num_shards, reused = _count(event, "shards"), _count(event, "reused")
            self.maps.append(MapTable(label=label, num_shards=num_shards, num_reused=reused))
        else:
            table = next((table for table in reversed(self.maps) if table.label == label), None)
            if table is not None:
                table.add(event)


@dataclass(kw_only=True)
class ShardTables:
    """The attempts that were looked at last. Thread-safe."""

    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[str, AttemptTable] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of_attempt(self, database: Database, run_id: str, stage_id: str, attempt_id: str) -> AttemptTable:
        """Up to date, or as far as the time of a request allows: a large table is read over several."""
        with self._lock:
            table = self._known.pop(attempt_id, None) or AttemptTable()
            self._known[attempt_id] = table
            while len(self._known) > MAX_TABLES:
                self._known.popitem(last=False)
        with table.lock:
            table.is_complete, end = False, self.clock() + READ_S
            while not table.is_complete:
                found = events_after(database, run_id, KINDS, stage_id=stage_id, after=table.read_to, limit=PAGE_EVENTS)
                for event in found:
                    table.add(event, attempt_id)
                table.is_complete = len(found) < PAGE_EVENTS
                if self.clock() >= end:
                    break
        return table


def _count(event: Event, name: str) -> int:
    value = event.fields.get(name)
    return value if isinstance(value, int) and value >= 0 else 0
