"""The space that a store takes: by stage, run and checkpoint.

Files that several places share by links are counted once, for the first of them: artifacts, then checkpoints, then
shards. An artifact belongs to the run that made it, whichever runs reuse it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from sqlalchemy import select

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.takedowns import TAKEDOWNS
from orchestrator.backends.objects import StoredObject
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, runs
from orchestrator.retention.pins import PINS
from orchestrator.store.layout import ARTIFACTS, EXPOSURES, PLANS, RUNS, SHARDS, StoredPlace, stored_place
from orchestrator.store.store import Store

RECORDS = (PLANS, RUNS, TAKEDOWNS, PINS, EXPOSURES)
What = Literal["artifact", "checkpoint", "shard", "record"]  # record: plans, runs and other small objects


@dataclass(frozen=True, kw_only=True)
class Space:
    """What the objects of one place take."""

    what: What
    stage_kind: str  # empty for records
    fingerprint: str  # empty for shards, which many artifacts share, and for records
    step: int | None  # of a checkpoint
    stage_id: str  # of the attempt that made it; empty: unknown
    run_id: str
    recipe: str
    files: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class _Maker:
    run_id: str
    stage_id: str
    recipe: str


def measure_space(store: Store, database: Database) -> list[Space]:
    """The space of every artifact, checkpoint, kind of shards, and of the records; lists the whole store once."""
    makers = _makers(database)
    seen: set[tuple[int, int]] = set()
    totals: dict[StoredPlace, list[int]] = {}
    artifacts = sorted(store.list(ARTIFACTS), key=lambda item: stored_place(item.key).what == "checkpoint")
    for item in chain(artifacts, *(store.list(top) for top in (SHARDS, *RECORDS))):
        total = totals.setdefault(stored_place(item.key), [0, 0])
        total[0] += 1
        total[1] += 0 if _is_counted(store, item, seen) else item.bytes
    return [_space(place, makers, files=files, num_bytes=size) for place, (files, size) in totals.items()]


def _is_counted(store: Store, item: StoredObject, seen: set[tuple[int, int]]) -> bool:
    """Whether another name of the same file was counted before."""
    path = store.local(item.key)
    if path is None:
        return False
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    inode = (found.st_dev, found.st_ino)
    if found.st_nlink == 1 or inode not in seen:
        seen.add(inode)
        return False
    return True


def _makers(database: Database) -> Mapping[ArtifactKey, _Maker]:
    """The first attempt at each artifact."""
    query = (
        select(attempts.c.stage_kind, attempts.c.fingerprint, attempts.c.run_id, attempts.c.stage_id, runs.c.recipe)
        .join(runs, runs.c.run_id == attempts.c.run_id)
        .order_by(attempts.c.created_at.desc())
    )
    rows = database.read(lambda connection: list(connection.execute(query)))
    return {
        ArtifactKey(row.stage_kind, row.fingerprint): _Maker(
            run_id=row.run_id, stage_id=row.stage_id, recipe=row.recipe
        )
        for row in rows
    }


def _space(place: StoredPlace, makers: Mapping[ArtifactKey, _Maker], *, files: int, num_bytes: int) -> Space:
    unknown = _Maker(run_id="", stage_id="", recipe="")
    maker = makers.get(ArtifactKey(place.stage_kind, place.fingerprint), unknown)
    return Space(
        what=place.what,
        stage_kind=place.stage_kind,
        fingerprint=place.fingerprint,
        step=place.step,
        stage_id=maker.stage_id,
        run_id=maker.run_id,
        recipe=maker.recipe,
        files=files,
        bytes=num_bytes,
    )


def totals_by(spaces: Sequence[Space], *names: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """(values of the fields, bytes) of all places with equal values, the largest first."""
    totals: dict[tuple[str, ...], int] = {}
    for space in spaces:
        key = tuple(str(vars(space)[name]) for name in names)
        totals[key] = totals.get(key, 0) + space.bytes
    yield from sorted(totals.items(), key=lambda item: (-item[1], item[0]))
