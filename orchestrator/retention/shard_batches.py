"""Shards by the thousand for the collector: which ones need a look, and deleting files of many attempts.

A million shards are listed a thousand objects at a time, and deleted likewise. Only what a listing cannot settle is
looked at shard by shard.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypeVar

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.shard_search import PackedRecords, packed_records, read_records
from orchestrator.backends.objects import StoredObject
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.errors import CorruptArtifactError
from orchestrator.store.commits import committed_attempt, is_decision, retract_shard, roll_forward
from orchestrator.store.deletion import Deleted, delete_objects
from orchestrator.store.layout import SHARDS, Site, shard_site, shards_folder
from orchestrator.store.shard_listing import ListedShard, list_shards, listed
from orchestrator.store.shard_packs import list_packs, read_packs
from orchestrator.store.store import Store

MAX_BATCH = 20_000  # items
FEW = 8  # shards below one prefix that are listed one by one


class OfSite(Protocol):
    """Something that belongs to a shard."""

    @property
    def site(self) -> Site | None: ...


T = TypeVar("T", bound=OfSite)


def batches(items: Sequence[T]) -> Iterator[list[T]]:
    """Lots of items whose shards are listed together, so that each lot takes a few requests in all."""
    ordered = sorted(items, key=_folder)
    for start in range(0, len(ordered), MAX_BATCH):
        yield ordered[start : start + MAX_BATCH]


def _folder(item: OfSite) -> str:
    assert item.site is not None, "each item is of a shard"
    return item.site.attempts.rpartition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A shard that may have something to delete."""

    site: Site
    retracted: str = ""  # the attempt that was committed and retracted, with `files`; "": the shard needs a look
    files: Sequence[StoredObject] = ()


def candidates(store: Store, *, before_s: float) -> Iterator[Candidate]:
    """The shards with files, all older than `before_s`, of an attempt that did not win or was retracted.

    The only attempt at a shard with a single record has written that record: what decides about an attempt is never
    deleted, so whoever won is still there. Other shards need a look.
    """
    for stage_kind in store.folders(SHARDS):
        packed: PackedRecords | None = None
        for shards in list_shards(store, stage_kind):
            old = [shard for shard in shards if _has_old_files(shard, before_s)]
            several = [shard for shard in old if shard.is_committed and len(shard.attempts) > 1]
            if several and packed is None:
                packed = packed_records(store, stage_kind)
            for shard in _with_losers(store, several, packed or {}):
                yield Candidate(site=shard_site(shard.key))
            for shard in old:
                if not shard.is_committed:
                    yield _retracted(shard)


def _retracted(shard: ListedShard) -> Candidate:
    site = shard_site(shard.key)
    if len(shard.attempts) == 1 and shard.records == shard.retracted == {0}:
        ((attempt, files),) = attempt_files(shard).items()
        return Candidate(site=site, retracted=attempt, files=files)
    return Candidate(site=site)


def _has_old_files(shard: ListedShard, before_s: float) -> bool:
    return any(max(file.modified_s for file in files) <= before_s for files in attempt_files(shard).values())


def attempt_files(shard: ListedShard) -> dict[str, list[StoredObject]]:
    """The objects of each attempt, without its decisions, which are never deleted."""
    site = shard_site(shard.key)
    found = {
        attempt: [item for item in objects if not is_decision(site, attempt, item.key)]
        for attempt, objects in shard.attempts.items()
    }
    return {attempt: files for attempt, files in found.items() if files}


def _with_losers(store: Store, shards: Sequence[ListedShard], packed: PackedRecords) -> Iterator[ListedShard]:
    for shard, data in read_records(store, shards, packed):
        won = winner(shard, data)
        if won is None or attempt_files(shard).keys() - {won}:
            yield shard


def winner(shard: ListedShard, data: bytes) -> str | None:
    """The attempt that the record names; None if it cannot be read. Raises: NewerFormatError."""
    try:
        return committed_attempt(data, f"shard record of {shard.key}")
    except CorruptArtifactError:
        return None


def delete_attempts(store: Store, attempts: Sequence[tuple[Site, str]]) -> Deleted:
    """Delete what these attempts at shards have stored, except their decisions.

    The same rule as for `delete_attempt`: each has lost, was aborted, or is retracted.
    """
    wanted: dict[ArtifactKey, set[str]] = {}
    for site, attempt in attempts:
        wanted.setdefault(site.key, set()).add(attempt)
    doomed: list[StoredObject] = []
    for shards in _listed(store, sorted(wanted)):
        for shard in shards:
            found = attempt_files(shard)
            for attempt in wanted.get(shard.key, set()) & found.keys():
                doomed += found[attempt]
    return delete_objects(store, doomed)


def _listed(store: Store, keys: Sequence[ArtifactKey]) -> Iterator[list[ListedShard]]:
    """These shards, each by itself if there are few below a prefix, else all below it."""

    def list_few(few: Sequence[ArtifactKey]) -> list[ListedShard]:
        stage_kind, prefix = few[0].stage_kind, few[0].fingerprint[:2]
        if len(few) > FEW:
            return listed(stage_kind, prefix, store.list(f"{shards_folder(stage_kind)}/{prefix}"))
        objects = (item for key in few for item in store.list(shard_site(key).attempts))
        return listed(stage_kind, prefix, objects)

    yield from parallel_map(list_few, _by_prefix(keys), threads=request_threads(is_local=store.is_local))


def committed_shards(store: Store, keys: Sequence[ArtifactKey]) -> list[tuple[Site, int]]:
    """The generations of these shards that count; those that are not committed, or cannot be read, are left out.

    Raises: NewerFormatError: a newer version wrote a record.
    """
    wanted = frozenset(keys)
    groups = _by_prefix(sorted(wanted))
    many = {group[0].stage_kind for group in groups if len(group) > FEW}
    packed = {stage_kind: packed_records(store, stage_kind) for stage_kind in many}

    def committed(group: Sequence[ArtifactKey]) -> list[tuple[Site, int]]:
        if len(group) > FEW:
            stage_kind, prefix = group[0].stage_kind, group[0].fingerprint[:2]
            shards = listed(stage_kind, prefix, store.list(f"{shards_folder(stage_kind)}/{prefix}"))
            known = [shard for shard in shards if shard.key in wanted and shard.is_committed]
            read = read_records(store, known, packed[stage_kind], threads=1)  # many prefixes at once
            return [(shard_site(shard.key), shard.generation) for shard, data in read if winner(shard, data)]
        found = [(shard_site(key), roll_forward(store, shard_site(key))) for key in group]
        return [(site, head.generation) for site, head in found if head.commit]

    parallel = parallel_map(committed, groups, threads=request_threads(is_local=store.is_local))
    return [found for group in parallel for found in group]


def retract_shards(store: Store, shards: Sequence[tuple[Site, int]], *, reason: str) -> None:
    """Retract these generations, whose records were seen: one request each."""

    def retract(shard: tuple[Site, int]) -> None:
        retract_shard(store, *shard, reason=reason)

    for _ in parallel_map(retract, shards, threads=request_threads(is_local=store.is_local)):
        pass


def _by_prefix(keys: Sequence[ArtifactKey]) -> list[list[ArtifactKey]]:
    """Keys that were sorted, in lists of those that one listing shows."""
    return [list(found) for _, found in groupby(keys, key=lambda key: (key.stage_kind, key.fingerprint[:2]))]


def committed_files(
    store: Store, *, skip: Callable[[ArtifactKey], bool]
) -> Iterator[tuple[ListedShard, str, list[StoredObject]]]:
    """Committed shards, but those to skip, with the attempt that won and all its objects, at least one.

    Raises: NewerFormatError: a newer version wrote a record.
    """
    for stage_kind in store.folders(SHARDS):
        packed = packed_records(store, stage_kind)
        for shards in list_shards(store, stage_kind):
            chosen = [shard for shard in shards if shard.attempts and not skip(shard.key)]
            for shard in chosen:
                if not shard.is_committed and len(attempt_files(shard)) > len(shard.records):
                    roll_forward(store, shard_site(shard.key))  # the next search sees what a crash interrupted
            for shard, data in read_records(store, [shard for shard in chosen if shard.is_committed], packed):
                won = winner(shard, data)
                if won is not None and shard.attempts.get(won):
                    yield shard, won, shard.attempts[won]


def stale_packs(store: Store, *, before_s: float) -> Iterator[StoredObject]:
    """Packs of this age without a single record that still counts."""
    for stage_kind in store.folders(SHARDS):
        old = {item.key: item for item in list_packs(store, stage_kind) if item.modified_s <= before_s}
        read = list(read_packs(store, list(old.values())))
        pack_of = {(record.fingerprint, record.generation): pack.key for pack in read for record in pack.records}
        stale = {pack.key for pack in read}
        for shards in list_shards(store, stage_kind) if stale else ():
            stale -= {pack_of.get((shard.key.fingerprint, shard.generation)) for shard in shards if shard.is_committed}
        yield from (old[key] for key in sorted(stale))
