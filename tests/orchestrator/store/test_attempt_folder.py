"""The folder of an attempt: what it may contain, and files of shards linked into an artifact without copying."""

import hashlib
import os
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.errors import StoreError
from orchestrator.identity import fingerprint_of
from orchestrator.shards import ShardOutcome
from orchestrator.store.copies.copy_budget import STAGING, evict
from orchestrator.store.copies.copy_locks import deleting
from orchestrator.store.store import Store

PAYLOAD = {"kind": "curate", "version": 1}
FINGERPRINT = fingerprint_of(PAYLOAD)
DRAFT = ManifestDraft(kind="dataset@1", payload=dict(PAYLOAD), metrics={})


@pytest.fixture
def artifacts(store: Store, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(store, tmp_path / "cache")


@pytest.fixture
def local(local_store: Store, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(local_store, tmp_path / "cache")


def test_links_special_files_and_unprintable_names_are_refused(local: ArtifactStore) -> None:
    def link(folder: Path) -> None:
        (folder / "link").symlink_to("/etc/passwd")

    def link_to_folder(folder: Path) -> None:
        (folder / "link").symlink_to("/etc")

    def pipe(folder: Path) -> None:
        os.mkfifo(folder / "pipe")

    def name(folder: Path) -> None:
        (folder / "a\nb").write_bytes(b"")

    for number, spoil in enumerate((link, link_to_folder, pipe, name)):
        attempt = local.new_attempt(ArtifactKey("curate", FINGERPRINT), f"attempt-{number}")
        spoil(attempt.data)
        with pytest.raises(StoreError, match=r"expected only plain files|unprintable characters"):
            local.commit(attempt, DRAFT, epoch=1)
    assert local.find(ArtifactKey("curate", FINGERPRINT)) is None


def shard(artifacts: ArtifactStore, content: bytes = b"shard bytes") -> tuple[ShardLedger, str]:
    ledger, fingerprint = ShardLedger(artifacts.store, artifacts.cache), "cd" * 32
    output = ledger.new_output(ArtifactKey("curate", fingerprint), owner="first")
    (output.data / "part.tar").write_bytes(content)
    ledger.record(output, ShardOutcome(rows=2), provenance={})
    return ledger, fingerprint


def test_shard_files_become_part_of_an_artifact_without_copying(artifacts: ArtifactStore) -> None:
    ledger, fingerprint = shard(artifacts)
    stored = ledger.find(ArtifactKey("curate", fingerprint))
    assert stored is not None
    attempt = artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), "first")
    (attempt.data / "own").write_bytes(b"own")
    attempt.link(stored.key_of("part.tar"), "shards/a.tar", stored.files[0])
    with pytest.raises(StoreError, match="expected each file of an artifact to be written once"):
        attempt.link(stored.key_of("part.tar"), "shards/a.tar", stored.files[0])
    made = artifacts.commit(attempt, DRAFT, epoch=1)
    assert [file.path for file in made.manifest.files] == ["own", "shards/a.tar"]
    assert made.manifest.files[1].sha256 == stored.files[0].sha256
    assert (made.path / "shards/a.tar").read_bytes() == b"shard bytes"
    assert artifacts.verify(ArtifactKey("curate", FINGERPRINT)) == []
    source = artifacts.store.local(stored.key_of("part.tar"))
    if source:
        assert source.samefile(made.path / "shards/a.tar")


def test_a_file_that_replaces_a_link_gets_its_own_digest(artifacts: ArtifactStore) -> None:
    ledger, fingerprint = shard(artifacts)
    stored = ledger.find(ArtifactKey("curate", fingerprint))
    assert stored is not None
    attempt = artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), "first")
    attempt.link(stored.key_of("part.tar"), "a.tar", stored.files[0])
    (attempt.data / "a.tar").unlink(missing_ok=True)
    (attempt.data / "a.tar").write_bytes(b"replaced")
    made = artifacts.commit(attempt, DRAFT, epoch=1)
    assert made.manifest.files[0].sha256 == hashlib.sha256(b"replaced").hexdigest()
    assert artifacts.verify(ArtifactKey("curate", FINGERPRINT)) == []
    assert ledger.verify(ArtifactKey("curate", fingerprint)) == []


def test_healing_also_retracts_the_shard_that_shares_the_damaged_bytes(local: ArtifactStore) -> None:
    ledger, fingerprint = shard(local)
    stored = ledger.find(ArtifactKey("curate", fingerprint))
    assert stored is not None
    attempt = local.new_attempt(ArtifactKey("curate", FINGERPRINT), "first")
    attempt.link(stored.key_of("part.tar"), "a.tar", stored.files[0])
    draft = ManifestDraft(kind="dataset@1", payload=dict(PAYLOAD), metrics={}, shards=(fingerprint,))
    made = local.commit(attempt, draft, epoch=1)
    (made.path / "a.tar").chmod(0o644)
    (made.path / "a.tar").write_bytes(b"shard bytez")
    assert ledger.find(ArtifactKey("curate", fingerprint)) is not None  # the length is right: only reading it tells
    assert [problem.path for problem in local.heal(ArtifactKey("curate", FINGERPRINT))] == ["a.tar", "part.tar"]
    assert ledger.find(ArtifactKey("curate", fingerprint)) is None


def test_what_a_living_process_writes_for_a_remote_store_is_no_leftover(s3_store: Store, tmp_path: Path) -> None:
    artifacts = ArtifactStore(s3_store, tmp_path / "cache")
    attempt = artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), "first")
    (attempt.data / "part").write_bytes(b"1")
    for path in (attempt.data, attempt.data / "part"):
        os.utime(path, (1.0, 1.0))
    assert evict(artifacts.cache, 1) == 0
    assert (attempt.data / "part").exists()
    attempt.remove()
    key = f"{STAGING}/{attempt.site.data_key('first')}"
    with deleting(artifacts.cache, key) as is_unused:
        assert is_unused
