import os
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.identity import fingerprint_of
from orchestrator.retention import local_copies
from orchestrator.retention.garbage import delete_garbage, find_garbage
from orchestrator.retention.local_copies import delete_copies, stale_copies
from orchestrator.store.copies.copy_budget import INDEXES
from orchestrator.store.copies.copy_locks import release
from orchestrator.store.store import Store

PAYLOAD = {"kind": "curate"}
FINGERPRINT = fingerprint_of(PAYLOAD)
LATER_S = 4e9  # long after everything in these tests was written


def nobody(_attempt: str) -> bool:
    return False


def keys(store: Store, cache: Path, *, now_s: float = LATER_S, live: str = "") -> list[str]:
    found = stale_copies(store, cache, now_s=now_s, is_live=lambda attempt: attempt == live, older_than_s=3600.0)
    return [copy.key for copy in found]


def committed(artifacts: ArtifactStore) -> None:
    attempt = artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), "first")
    (attempt.data / "data").mkdir()
    (attempt.data / "data" / "file").write_bytes(b"a picture")
    attempt.publish()
    artifacts.commit(attempt, ManifestDraft(kind="dataset@1", payload=dict(PAYLOAD), metrics={}), epoch=1)


def test_copies_stay_as_long_as_the_store_has_them(store: Store, tmp_path: Path) -> None:
    committed(ArtifactStore(store, tmp_path / "writer"))
    reader = ArtifactStore(store, tmp_path / "reader")
    opened = reader.open(ArtifactKey("curate", FINGERPRINT)).path
    assert keys(store, reader.cache) == []
    reader.retract(ArtifactKey("curate", FINGERPRINT), reason="taken down elsewhere")
    assert keys(store, reader.cache) == []  # its files are still there
    garbage = find_garbage(store, now_s=LATER_S, is_live=nobody)
    delete_garbage(store, garbage, is_live=nobody)
    stale = stale_copies(store, reader.cache, now_s=0.0, is_live=nobody, older_than_s=3600.0)
    assert [copy.path for copy in stale] == ([] if store.is_local else [opened])
    assert [copy.bytes for copy in stale] == ([] if store.is_local else [9])
    assert delete_copies(reader.cache, stale) == []  # this process still reads them
    release(reader.cache, "")
    assert delete_copies(reader.cache, stale) == stale
    assert not opened.exists()
    assert keys(store, reader.cache) == []


def test_leftovers_of_dead_attempts_become_stale_with_age(store: Store, tmp_path: Path) -> None:
    artifacts = ArtifactStore(store, tmp_path / "cache")
    attempt = artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), "first")
    (attempt.data / "file").write_bytes(b"half a pict")
    staged = [] if store.is_local else [attempt.data.relative_to(artifacts.cache).as_posix()]
    others = [f"downloads/{'1' * 32}", f"{INDEXES}/{FINGERPRINT}"]
    for key in others:
        (artifacts.cache / key).mkdir(parents=True)
        (artifacts.cache / key / "part").write_bytes(b"1")
    wrote_s = os.stat(artifacts.cache / others[0]).st_mtime
    assert keys(store, artifacts.cache, now_s=wrote_s + 3000) == []
    assert sorted(keys(store, artifacts.cache, now_s=wrote_s + 4000)) == sorted(staged + others)
    assert sorted(keys(store, artifacts.cache, live="first")) == others


def test_a_machine_without_copies_has_none_to_delete(store: Store, tmp_path: Path) -> None:
    assert keys(store, tmp_path / "absent") == []


def test_a_folder_moved_meanwhile_is_skipped(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_copies, "_folder_keys", lambda _cache: ["downloads/gone", "artifacts/a/data"])
    assert keys(store, tmp_path) == []
