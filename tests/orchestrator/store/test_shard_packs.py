import hashlib
import logging

import pytest

from orchestrator.errors import CorruptArtifactError, NewerFormatError, StoreError
from orchestrator.store.shard_packs import (
    MAX_RECORDS,
    MAX_SMALL_PACKS,
    MIN_RECORDS,
    Pack,
    PackedRecord,
    Packer,
    list_packs,
    pack_records,
    put_pack,
    read_packs,
    small_packs,
)
from orchestrator.store.store import Store
from tests.orchestrator.conftest import MemoryStore


def record(number: int, generation: int = 0) -> PackedRecord:
    return PackedRecord(
        f"{number:064x}", generation, b'{"attempt":"a","files":[{"path":"x\\n,]"}],"number":%d}' % number
    )


def all_records(store: Store, map_id: str = "") -> list[PackedRecord]:
    return [found for pack in read_packs(store, list_packs(store, "curate", map_id)) for found in pack.records]


def test_records_come_back_byte_for_byte(store: Store) -> None:
    records = [record(3), record(1, 12), record(1)]
    put_pack(store, "curate", "m", records)
    assert all_records(store, "m") == [record(1), record(1, 12), record(3)]
    assert all_records(store) == all_records(store, "m")
    assert all_records(store, "other") == []


def test_two_that_pack_the_same_records_store_one_pack(store: Store) -> None:
    keys = {
        put_pack(store, "curate", "m", [record(1), record(2)]),
        put_pack(store, "curate", "m", [record(2), record(1)]),
    }
    assert len(keys) == len(list_packs(store, "curate")) == 1


def test_a_damaged_or_newer_pack_is_passed_over(memory_store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    key = put_pack(memory_store, "curate", "m", [record(1)])
    memory_store.objects[key] = memory_store.objects[key].replace(b'"number":1', b'"number":2')
    with caplog.at_level(logging.WARNING):
        assert all_records(memory_store) == []
    assert "found other bytes than its name says" in caplog.text
    with pytest.raises(CorruptArtifactError):
        pack_records(b"", key)
    newer = b'{"format":2,"records":0}\n'
    with pytest.raises(NewerFormatError):
        pack_records(newer, f"m/{hashlib.sha256(newer).hexdigest()}.jsonl")


def test_a_packer_stores_full_packs_and_no_tiny_last_one(memory_store: MemoryStore) -> None:
    packer = Packer(memory_store, "curate", "m")
    for number in range(2 * MAX_RECORDS + MIN_RECORDS - 1):
        packer.add(record(number))
    packer.close()
    assert [len(pack.records) for pack in read_packs(memory_store, list_packs(memory_store, "curate"))] == [
        MAX_RECORDS
    ] * 2
    packer.add(record(2 * MAX_RECORDS + MIN_RECORDS))
    packer.close()
    assert len(all_records(memory_store)) == 2 * MAX_RECORDS + MIN_RECORDS


def test_many_small_packs_become_one(memory_store: MemoryStore) -> None:
    for number in range(MAX_SMALL_PACKS + 1):
        assert small_packs(list(read_packs(memory_store, list_packs(memory_store, "curate")))) == []
        put_pack(memory_store, "curate", "m", [record(number)])
    packs = list(read_packs(memory_store, list_packs(memory_store, "curate")))
    packer = Packer(memory_store, "curate", "m")
    for pack in small_packs(packs):
        packer.add_pack(pack)
    packer.close()
    assert len(list_packs(memory_store, "curate")) == 1
    assert all_records(memory_store) == [record(number) for number in range(MAX_SMALL_PACKS + 1)]


def test_a_store_that_refuses_a_pack_costs_no_map(caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryStore):
        def put_new(self, key: str, data: bytes) -> bool:
            raise StoreError("the disk is full")

    packer = Packer(Full(), "curate", "m")
    for number in range(MIN_RECORDS):
        packer.add(record(number))
    packer.close()
    assert "64 shard records are not packed: the disk is full" in caplog.text


def test_a_pack_knows_its_key(memory_store: MemoryStore) -> None:
    key = put_pack(memory_store, "curate", "m", [record(1)])
    assert list(read_packs(memory_store, list_packs(memory_store, "curate"))) == [Pack(key=key, records=[record(1)])]
