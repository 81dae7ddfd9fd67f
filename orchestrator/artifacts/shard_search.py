"""Finds many finished shards with few requests: listings show which exist, packs hold their records.

Whatever a listing shows to be unusual (an interrupted commit, a file that is missing or has another length, a record
that cannot be read) is looked at by itself, as if it were the only one.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.shard_records import StoredShard, shard_from_bytes
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.errors import CorruptArtifactError
from orchestrator.store.layout import shard_site, shards_folder
from orchestrator.store.shard_listing import ListedShard, list_shards, listed
from orchestrator.store.shard_packs import PackedRecord, Packer, list_packs, read_packs, small_packs
from orchestrator.store.store import Store

log = logging.getLogger(__name__)

FEW = 256  # shards that are found faster one by one
REQUESTS_FOR_ONE = 2  # to find one shard by itself: its record, and a listing of its files
LISTED_AT_ONCE = 1000  # objects in the answer to one request

PackedRecords = dict[tuple[str, int], bytes]  # by fingerprint and generation


@dataclass(frozen=True, kw_only=True)
class ShardSearch:
    """Finds shards of one stage kind."""

    store: Store
    stage_kind: str
    find_one: Callable[[ArtifactKey], StoredShard | None]

    def find(self, wanted: Sequence[str], packer: Packer | None = None) -> dict[str, StoredShard]:
        """The finished ones of these shards, by fingerprint.

        `packer`: of the map that they belong to; only its packs are read, and it gets the records that are in none.
        """
        prefixes = sorted({fingerprint[:2] for fingerprint in wanted})
        known = self._worth_listing(prefixes, len(wanted)) if len(wanted) > FEW else None
        if known is None:
            return self._one_by_one(wanted, None)
        packed, keys, found = self._packed(packer), frozenset(wanted), dict[str, StoredShard]()
        for shards in chain([known], list_shards(self.store, self.stage_kind, prefixes[1:])):
            chosen = [shard for shard in shards if shard.key.fingerprint in keys]
            found.update((stored.key.fingerprint, stored) for stored in self._read(chosen, packed, packer))
        return found

    def all(self) -> Iterator[StoredShard]:
        """Every shard whose record can be read, whether its files are there or not; the others are logged."""
        packed = self._packed(None)
        for shards in list_shards(self.store, self.stage_kind):
            committed = [shard for shard in shards if shard.is_committed]
            yield from self._parsed(committed, packed, lambda shard, _error: None)

    def _worth_listing(self, prefixes: Sequence[str], num_wanted: int) -> list[ListedShard] | None:
        """The shards of the first prefix, if listing them all takes fewer requests than asking for each wanted one."""
        folder = f"{shards_folder(self.stage_kind)}/{prefixes[0]}"
        objects = list(self.store.list(folder))
        pages = len(prefixes) * (1 + len(objects) // LISTED_AT_ONCE)
        if pages > REQUESTS_FOR_ONE * num_wanted:
            return None
        return listed(self.stage_kind, prefixes[0], iter(objects))

    def _one_by_one(self, wanted: Sequence[str], packer: Packer | None) -> dict[str, StoredShard]:
        keys = [ArtifactKey(self.stage_kind, fingerprint) for fingerprint in wanted]
        found = parallel_map(self.find_one, keys, threads=request_threads(is_local=self.store.is_local))
        return {stored.key.fingerprint: self._kept(stored, packer) for stored in found if stored}

    def _packed(self, packer: Packer | None) -> PackedRecords:
        listing = list_packs(self.store, self.stage_kind, packer.map_id if packer else "")
        packs = list(read_packs(self.store, listing))
        if packer is not None:
            for pack in small_packs(packs):
                packer.add_pack(pack)
        return {(record.fingerprint, record.generation): record.data for pack in packs for record in pack.records}

    def _read(
        self, shards: Sequence[ListedShard], packed: PackedRecords, packer: Packer | None
    ) -> Iterator[StoredShard]:
        """The sound ones of these shards."""
        unusual = [shard for shard in shards if not shard.is_committed and shard.attempts]

        def is_unusual(shard: ListedShard, _error: object) -> None:
            unusual.append(shard)

        for stored, shard in self._with_listing([shard for shard in shards if shard.is_committed], packed, is_unusual):
            if not _has_files(shard, stored):
                unusual.append(shard)
                continue
            is_packed = (stored.key.fingerprint, stored.commit.generation) in packed
            yield self._kept(stored, None if is_packed else packer)
        yield from self._one_by_one([shard.key.fingerprint for shard in unusual], packer).values()

    def _kept(self, stored: StoredShard, packer: Packer | None) -> StoredShard:
        if packer is not None:
            add_to_pack(packer, stored)
        return stored.without_bytes()

    def _parsed(
        self,
        shards: Sequence[ListedShard],
        packed: Mapping[tuple[str, int], bytes],
        on_error: Callable[[ListedShard, CorruptArtifactError], None],
    ) -> Iterator[StoredShard]:
        for stored, _ in self._with_listing(shards, packed, on_error):
            yield stored.without_bytes()

    def _with_listing(
        self,
        shards: Sequence[ListedShard],
        packed: Mapping[tuple[str, int], bytes],
        on_error: Callable[[ListedShard, CorruptArtifactError], None],
    ) -> Iterator[tuple[StoredShard, ListedShard]]:
        for shard, data in read_records(self.store, shards, packed):
            try:
                yield shard_from_bytes(shard.key, shard.generation, data), shard
            except CorruptArtifactError as error:
                log.warning("%s", error)
                on_error(shard, error)


def read_records(
    store: Store,
    shards: Iterable[ListedShard],
    packed: Mapping[tuple[str, int], bytes],
    *,
    threads: int | None = None,
) -> Iterator[tuple[ListedShard, bytes]]:
    """The bytes of the records of these committed shards, from packs or else from the store.

    `threads`: for the requests to the store; None: as many as it is asked with.
    """
    loose: list[ListedShard] = []
    for shard in shards:
        data = packed.get((shard.key.fingerprint, shard.generation))
        if data is None:
            loose.append(shard)
        else:
            yield shard, data

    def read(shard: ListedShard) -> bytes | None:
        return store.get(shard_site(shard.key).commit_key(shard.generation))

    found = parallel_map(read, loose, threads=threads or request_threads(is_local=store.is_local))
    for shard, data in zip(loose, found, strict=True):
        if data is not None:
            yield shard, data.rstrip(b"\n")


def packed_records(store: Store, stage_kind: str) -> PackedRecords:
    """The records in all packs of a stage kind."""
    packs = read_packs(store, list_packs(store, stage_kind))
    return {(record.fingerprint, record.generation): record.data for pack in packs for record in pack.records}


def add_to_pack(packer: Packer, stored: StoredShard) -> None:
    """Pack the record of a shard, if its bytes are known and take one line, as all do that this program writes."""
    data = stored.commit.data.rstrip(b"\n")
    if data and b"\n" not in data and b"\r" not in data:
        packer.add(PackedRecord(stored.key.fingerprint, stored.commit.generation, data))


def _has_files(shard: ListedShard, stored: StoredShard) -> bool:
    """Whether the listing shows all files of the shard with the recorded lengths."""
    sizes = {item.key: item.bytes for item in shard.attempts.get(stored.commit.attempt, ())}
    folder = stored.data_key
    return all(sizes.get(f"{folder}/{file.path}") == file.bytes for file in stored.files)
