"""The words of the durable shard map: what a shard is, what a worker does with it, what is recorded."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.artifact import JSON, FileEntry


@dataclass(frozen=True, kw_only=True)
class Shard:
    """An explicit list of items, fixed before anything runs.

    `items` and `identity` (content digests of what the items refer to) make the shard's fingerprint together with
    the identity that the stage gives to `map_shards`; `name` and `work` (where things lie) do not.
    """

    name: str  # unique within one map, usable as a file stem, e.g. "images-00007"
    items: tuple[JSON, ...]
    identity: dict[str, JSON] = field(default_factory=dict)
    work: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ShardInput:
    """What a worker gets: the items to work on and an empty local folder to write files into."""

    name: str
    items: tuple[JSON, ...]
    work: dict[str, JSON]
    output: Path


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    item: JSON
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardOutcome:
    """What a worker returns. Deterministic: it is part of the durable record."""

    rows: int
    quarantined: tuple[Quarantined, ...] = ()
    stats: dict[str, float] = field(default_factory=dict)  # summed over shards by `map_shards`
    result: JSON = None  # small value handed back to the stage, e.g. a digest


class ShardWorker(Protocol):
    """A frozen dataclass that crosses to a Ray worker process.

    `start` runs once in each process (loads the model, say); what it returns is called once for each shard.
    """

    def start(self) -> Callable[[ShardInput], ShardOutcome]: ...


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The write-once record of a finished shard, and where its files can be read."""

    shard: str  # the shard's name in this map
    fingerprint: str
    path: Path  # local folder with the files
    files: tuple[FileEntry, ...]
    outcome: ShardOutcome
    reused: bool  # made earlier, by this or another run


def sum_stats(records: Iterable[ShardRecord]) -> dict[str, float]:
    """The shards' own figures added up by name, with `rows` and `quarantined` beside them."""
    totals = {"rows": 0.0, "quarantined": 0.0}
    for record in records:
        totals["rows"] += record.outcome.rows
        totals["quarantined"] += len(record.outcome.quarantined)
        for name, value in record.outcome.stats.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals
