"""The types of the durable shard map: shards, their workers, and what is recorded."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from orchestrator.artifact import JSON, FileEntry


class FetchFiles(Protocol):
    """Makes files of a finished shard readable on the machine of the caller. Can be pickled."""

    def __call__(self, names: Collection[str] | None = None) -> Path:
        """The folder with at least these files; None: with all."""


@dataclass(frozen=True)
class RemoteFolder:
    """The folder of a finished shard whose files are downloaded where they are read, when they are read."""

    place: Path  # the same on every machine
    fetch: FetchFiles


class _ReadablePath:
    """`ShardRecord.path`: the files are fetched when it is first asked for."""

    def __get__(self, record: "ShardRecord | None", _owner: object = None) -> Path:
        if record is None:
            raise AttributeError("path")  # a dataclass takes what the class has for the default, and there is none
        folder: Path | RemoteFolder = vars(record)["_folder"]
        return folder if isinstance(folder, Path) else folder.fetch()

    def __set__(self, record: "ShardRecord", folder: Path | RemoteFolder) -> None:
        vars(record)["_folder"] = folder


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The write-once record of a finished shard, and the folder of its files."""

    shard: str  # the shard's name in this map
    fingerprint: str
    path: _ReadablePath = _ReadablePath()  # local folder with all files, which are downloaded from a remote store
    files: tuple[FileEntry, ...]
    outcome: "ShardOutcome"
    reused: bool  # made earlier, by this or another run

    @property
    def place(self) -> Path:
        """Where the files are, or will be on the machine that reads them: for the `work` of a shard that `reads` it."""
        return self.folder if isinstance(self.folder, Path) else self.folder.place

    @property
    def folder(self) -> Path | RemoteFolder:
        found: Path | RemoteFolder = vars(self)["_folder"]
        return found

    def file(self, name: str) -> Path:
        """One of the files, readable here; no other is downloaded."""
        return (self.folder if isinstance(self.folder, Path) else self.folder.fetch([name])) / name


@dataclass(frozen=True, kw_only=True)
class Shard:
    """An explicit list of items, fixed before anything runs.

    `items` and `identity` (content digests of what the items refer to) make the shard's fingerprint together with
    the identity that the stage passes to `map_shards`; `name`, `work` (paths, for example) and `reads` do not.
    """

    name: str  # unique within one map, usable as a file stem, e.g. "images-00007"
    items: tuple[JSON, ...]
    identity: dict[str, JSON] = field(default_factory=dict)
    work: dict[str, JSON] = field(default_factory=dict)
    reads: tuple[ShardRecord, ...] = ()  # of earlier maps: their files are at their `place` where this shard runs


@dataclass(frozen=True, kw_only=True)
class ShardInput:
    """A worker's input: the items to process and an empty local folder for the output files."""

    name: str
    items: tuple[JSON, ...]
    work: dict[str, JSON]
    output: Path


@dataclass(frozen=True, kw_only=True)
class FailedTry:
    """One failure of an item, in a process that had just worked on a known-good item of the same map."""

    attempt: str
    process: str  # "pid 71 on node-3"
    error: str
    witness: Any  # the known-good item, any JSON


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    item: JSON
    reason: str
    found_by: Literal["stage", "search", "unknown"] = "stage"  # by the stage's code; by its failing; an old record
    tries: tuple[FailedTry, ...] = ()  # the evidence, if it was found by its failing


@dataclass(frozen=True, kw_only=True)
class ShardOutcome:
    """A worker's result. Deterministic: it is part of the durable record."""

    rows: int
    quarantined: tuple[Quarantined, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)  # summed over shards by `map_shards`
    result: JSON = None  # small value returned to the stage, e.g. a digest


class ShardWorker(Protocol):
    """A frozen dataclass that is sent to a Ray worker process.

    `start` runs once in each process (for example, loads the model); the function it returns is called for each shard.
    """

    def start(self) -> Callable[[ShardInput], ShardOutcome]: ...


def sum_metrics(records: Iterable[ShardRecord]) -> dict[str, float]:
    """The shards' metrics summed by name, with the counts `rows` and `quarantined`."""
    totals = {"rows": 0.0, "quarantined": 0.0}
    for record in records:
        totals["rows"] += record.outcome.rows
        totals["quarantined"] += len(record.outcome.quarantined)
        for name, value in record.outcome.metrics.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals
