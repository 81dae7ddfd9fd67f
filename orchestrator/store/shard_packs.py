"""Packs: immutable objects with copies of thousands of shard records, which one request reads.

    shards/<kind>/packs/<map>/<sha256>.jsonl

The first line is a header; each further line is `["<fingerprint>",<generation>,<the record as it is stored>]`. A pack
is named by the digest of its bytes, so two drivers that pack the same records write one object, and a damaged pack is
seen. The single records stay the truth: a pack is used only for records that a listing shows, and may be deleted at any
time. A reader that finds no pack, or cannot read one, reads the single records.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.artifact import JSON
from orchestrator.backends.objects import StoredObject
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.documents.typed_json import parse_record
from orchestrator.errors import CorruptArtifactError, NewerFormatError, StoreError
from orchestrator.identity import canonical_json
from orchestrator.store.layout import packs_folder
from orchestrator.store.store import Store, put_same

log = logging.getLogger(__name__)

PACK_FORMAT = 1
MAX_RECORDS = 5000  # of a pack
MAX_BYTES = 8 * 1024**2  # of a pack's records, unless a single one is larger
MIN_RECORDS = 64  # of the last pack of a map
MAX_SMALL_PACKS = 8  # of a map, before they are merged
SUFFIX = ".jsonl"
_FINGERPRINT = slice(2, 66)  # of a line
_GENERATION_AT = 68


@dataclass(frozen=True, kw_only=True)
class _Header:
    """The persisted first line of a pack."""

    format: Literal[1]
    records: int


@dataclass(frozen=True, slots=True)
class PackedRecord:
    """One record of a pack: the bytes that are stored at the shard's commit key, without their line end."""

    fingerprint: str
    generation: int
    data: bytes

    @property
    def line(self) -> bytes:
        return b'["%b",%d,%b]\n' % (self.fingerprint.encode(), self.generation, self.data)


@dataclass(frozen=True, kw_only=True)
class Pack:
    key: str
    records: list[PackedRecord]


def put_pack(store: Store, stage_kind: str, map_id: str, records: Sequence[PackedRecord]) -> str:
    """Store these records as one pack and return its key. Two callers with the same records store one object."""
    header: dict[str, JSON] = {"format": PACK_FORMAT, "records": len(records)}
    lines = [f"{canonical_json(header)}\n".encode(), *(record.line for record in sorted(records, key=_order))]
    data = b"".join(lines)
    key = f"{packs_folder(stage_kind, map_id)}/{hashlib.sha256(data).hexdigest()}{SUFFIX}"
    put_same(store, key, data)
    return key


def list_packs(store: Store, stage_kind: str, map_id: str = "") -> list[StoredObject]:
    """The packs of one map, or of all maps of a stage kind."""
    return [item for item in store.list(packs_folder(stage_kind, map_id)) if item.key.endswith(SUFFIX)]


def read_packs(store: Store, packs: Sequence[StoredObject]) -> Iterator[Pack]:
    """The packs that can be read; the others are logged, and their records have to be read one by one."""

    def read(item: StoredObject) -> Pack | None:
        data = store.get(item.key)
        try:
            return None if data is None else Pack(key=item.key, records=pack_records(data, item.key))
        except (CorruptArtifactError, NewerFormatError) as error:
            log.warning("%s; its records are read one by one", error)
            return None

    for pack in parallel_map(read, packs, threads=request_threads(is_local=store.is_local)):
        if pack is not None:
            yield pack


def pack_records(data: bytes, key: str) -> list[PackedRecord]:
    """The records in the bytes of the pack at `key`.

    Raises:
        NewerFormatError: a newer version wrote it.
        CorruptArtifactError: the bytes are not those that the name says.
    """
    if hashlib.sha256(data).hexdigest() != key.rpartition("/")[2].removesuffix(SUFFIX):
        raise CorruptArtifactError(f"{key}: found other bytes than its name says; expected its SHA-256")
    first, *lines = data.splitlines()
    parse_record(_Header, first, key)
    return [_parse_line(line) for line in lines]


def _parse_line(line: bytes) -> PackedRecord:
    generation, _, record = line[_GENERATION_AT:].partition(b",")
    return PackedRecord(line[_FINGERPRINT].decode(), int(generation), record[:-1])


def _order(record: PackedRecord) -> tuple[str, int]:
    return record.fingerprint, record.generation


class Packer:
    """Collects the records of one map and stores a pack whenever enough have come together.

    A failure to store or to delete a pack is logged: it costs time later, never a record.
    """

    def __init__(self, store: Store, stage_kind: str, map_id: str) -> None:
        self.store, self.stage_kind, self.map_id = store, stage_kind, map_id
        self._records: list[PackedRecord] = []
        self._num_bytes = 0
        self._merged: list[str] = []  # keys of small packs whose records are collected again

    def add(self, record: PackedRecord) -> None:
        self._records.append(record)
        self._num_bytes += len(record.data)
        if len(self._records) >= MAX_RECORDS or self._num_bytes >= MAX_BYTES:
            self.flush()

    def add_pack(self, pack: Pack) -> None:
        """Take over the records of a small pack, which is deleted once they are in a larger one."""
        self._merged.append(pack.key)
        for record in pack.records:
            self.add(record)

    def close(self) -> None:
        """Store what is left, unless it is too little to be worth a request of every later reader."""
        if len(self._records) >= MIN_RECORDS or self._merged:
            self.flush()

    def flush(self) -> None:
        if not self._records:
            return
        try:
            new = put_pack(self.store, self.stage_kind, self.map_id, self._records)
            for key in self._merged:
                if key != new:
                    self.store.delete(key)
        except StoreError as error:
            log.warning("%d shard records are not packed: %s", len(self._records), error)
        self._records, self._num_bytes, self._merged = [], 0, []


def small_packs(packs: Sequence[Pack]) -> list[Pack]:
    """Packs to merge into larger ones: there are so many that reading them takes more requests than it has to."""
    small = [pack for pack in packs if len(pack.records) < MAX_RECORDS // 2]
    return small if len(small) > MAX_SMALL_PACKS else []
