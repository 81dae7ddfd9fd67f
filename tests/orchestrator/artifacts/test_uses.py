"""Records of use: written in batches before anything is used, and in force until the attempt has an outcome."""

from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts import uses
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.uses import Uses, record_use
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import CorruptArtifactError, NewerFormatError
from tests.orchestrator.conftest import MemoryStore
from tests.orchestrator.store.priced_store import PricedStore

ATTEMPT = AttemptId.of("run-1", "curate", epoch=1, number=1)
KEY, INPUT = ArtifactKey("curate", "ab" * 32), ArtifactKey("ingest", "cd" * 32)


def shard(number: int) -> ArtifactKey:
    return ArtifactKey("curate", f"{number:064x}")


def test_shards_and_inputs_are_in_use_until_the_attempt_ends(memory_store: MemoryStore, tmp_path: Path) -> None:
    artifacts, found = ArtifactStore(memory_store, tmp_path), Uses(memory_store)
    folder = artifacts.new_attempt(KEY, ATTEMPT.name, attempt=ATTEMPT)
    record_use(memory_store, ATTEMPT, KEY, artifacts=[INPUT])
    record_use(memory_store, ATTEMPT, KEY, shards=[shard(1).fingerprint])
    assert [use.attempt for use in found.of_artifact(INPUT)] == [ATTEMPT.name]
    assert [use.run_id for use in found.all()] == ["run-1", "run-1"]
    assert found.of_artifact(KEY) == []
    assert found.shards_in_use() == {shard(1)}
    artifacts.abort(folder, reason="stopped")
    assert found.of_artifact(INPUT) == []
    assert found.shards_in_use() == set()
    assert len(found.all()) == 2  # what the run continues from is still known


def test_a_large_map_takes_few_records_and_each_is_read_once(
    memory_store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uses, "SHARDS_PER_RECORD", 4)
    record_use(memory_store, ATTEMPT, KEY, shards=[shard(number % 9).fingerprint for number in range(18)])
    found = Uses(memory_store)
    assert sorted(len(use.shards) for use in found.all()) == [1, 4, 4]
    assert found.shards_in_use() == {shard(number) for number in range(9)}
    for key in memory_store.objects:
        memory_store.objects[key] = b"never read again"
    assert len(found.all()) == 3


def test_a_record_of_an_unknown_attempt_counts(memory_store: MemoryStore) -> None:
    record_use(memory_store, ATTEMPT, KEY, shards=[shard(1).fingerprint])
    assert Uses(memory_store).shards_in_use() == {shard(1)}


def test_whether_an_attempt_has_ended_is_asked_until_it_has(tmp_path: Path) -> None:
    store = PricedStore()
    artifacts, found = ArtifactStore(store, tmp_path), Uses(store)
    folder = artifacts.new_attempt(KEY, ATTEMPT.name, attempt=ATTEMPT)
    for _ in range(3):
        record_use(store, ATTEMPT, KEY, artifacts=[INPUT])
    assert len(found.open()) == 3
    store.forget()
    assert len(found.open()) == 3
    assert store.count("get") == 1
    artifacts.abort(folder, reason="stopped")
    assert found.open() == []
    store.forget()
    assert found.open() == []
    assert store.count("get") == 0  # an outcome is final


def test_a_record_that_cannot_be_read_is_an_error_that_names_it(memory_store: MemoryStore) -> None:
    memory_store.objects["uses/someone/1.json"] = b"{"
    with pytest.raises(CorruptArtifactError, match=r"memory: uses/someone/1\.json: "):
        Uses(memory_store).all()
    memory_store.objects["uses/someone/1.json"] = b'{"format": 2}'
    with pytest.raises(NewerFormatError, match=r"uses/someone/1\.json"):
        Uses(memory_store).all()
