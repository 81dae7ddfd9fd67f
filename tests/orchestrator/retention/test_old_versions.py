"""What a bucket that keeps versions still has of what was deleted, and who is told."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.takedowns import TaintedArtifact, Takedown
from orchestrator.backends.object_store import ObjectStore
from orchestrator.commands.gc import gc_command
from orchestrator.commands.takedown import takedown_command
from orchestrator.history.database.database import Database
from orchestrator.retention.old_versions import OLD_VERSIONS, find_old_versions, keeps_versions
from orchestrator.retention.taint_removal import tainted_folders
from orchestrator.store.layout import artifact_site, checkpoint_site, shard_site
from orchestrator.store.store import Store
from stages.provenance.receipt import Receipt
from tests.orchestrator.conftest import MemoryStore, S3Server

DATASET = ArtifactKey("curate", "ab" * 32)
SHARD = ArtifactKey("curate", "cd" * 32)
OTHER = ArtifactKey("curate", "ef" * 32)


def keep_versions(store: ObjectStore, status: str = "Enabled") -> None:
    api = store.s3
    assert api is not None
    api.client.put_bucket_versioning(Bucket=api.bucket, VersioningConfiguration={"Status": status})


def takedown() -> Takedown:
    tainted = TaintedArtifact(
        stage_kind=DATASET.stage_kind, fingerprint=DATASET.fingerprint, kind="dataset@1", why="holds it", is_kept=False,
        manifest_sha256="m", bytes=1, run_id="r", stage_id="s", attempt_id="a",
    )  # fmt: skip
    return Takedown(id="T1", note="", created="2025-01-01", content={}, tainted=(tainted,), shards=(SHARD,))


def receipt(store: Store) -> Receipt:
    old = find_old_versions(store, tainted_folders(takedown()))
    return Receipt(
        takedown=takedown(),
        valid_records=(),
        files=(),
        shards_found=0,
        successors=(),
        recipes_to_rerun=(),
        old=old,
    )


def test_a_bucket_that_never_kept_versions_has_none_and_other_stores_are_not_asked(
    s3_store: ObjectStore, local_store: Store
) -> None:
    for store in (s3_store, local_store, MemoryStore()):
        assert not keeps_versions(store)
        assert receipt(store).open_points == []


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_a_receipt_names_each_old_version_of_tainted_files_and_stays_open(s3_store: ObjectStore, status: str) -> None:
    keep_versions(s3_store)
    assert keeps_versions(s3_store)
    keys = {
        f"{artifact_site(DATASET).data_key('a')}/shards/1.tar": b"12345",
        f"{shard_site(SHARD).data_key('b')}/part": b"123",
        f"{checkpoint_site(DATASET, 7).data_key('c')}/part": b"1",
        f"{artifact_site(OTHER).data_key('d')}/shards/1.tar": b"of others",
    }
    for key, data in keys.items():
        s3_store.put_new(key, data)
    assert receipt(s3_store).old.versions == ()  # they are there: another point of the receipt says so
    s3_store.delete_many(list(keys))
    keep_versions(s3_store, status)
    found = receipt(s3_store)
    assert {version.key: version.bytes for version in found.old.versions} == {
        key: len(data) for key, data in keys.items() if OTHER.fingerprint not in key
    }
    (point,) = found.open_points
    assert "3 old versions in the bucket can still be read" in point
    predicate = found.statement()["predicate"]
    assert isinstance(predicate, dict)
    assert predicate["complete"] is False
    api = s3_store.s3
    assert api is not None
    for version in found.old.versions:  # what the receipt says is enough to find them
        where = {"Bucket": api.bucket, "Key": f"{api.prefix}{version.key}"}
        answer = api.client.get_object(**where, VersionId=version.version_id)
        assert answer["Body"].read() == keys[version.key]


def test_a_bucket_that_does_not_allow_the_question_leaves_it_open(s3: S3Server, s3_store: ObjectStore) -> None:
    s3.refusals = {("GET", "versioning"): "<Code>AccessDenied</Code>"}
    (point,) = receipt(s3_store).open_points
    assert "does not say if it keeps old versions" in point
    assert "AccessDenied" in point
    s3.refusals = {("GET", "versioning"): "<Code>NotImplemented</Code>"}  # as stores answer that know no versions
    assert receipt(s3_store).open_points == []


def test_whoever_deletes_in_a_bucket_that_keeps_versions_is_told_so(
    s3_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_versions(s3_store)
    monkeypatch.setenv("ILLUME_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Database(str(tmp_path / "home" / "index.db")).close()
    where = ["--store", s3_store.url, "--tracking", "none"]
    assert OLD_VERSIONS in CliRunner().invoke(gc_command, [*where, "--delete"]).stdout
    assert CliRunner().invoke(takedown_command, ["plan", "nobody", "--id", "T0", *where]).exit_code == 0
    applied = CliRunner().invoke(takedown_command, ["apply", "T0.takedown.json", "--delete", *where])
    assert OLD_VERSIONS in applied.stdout, applied.output
    again = CliRunner().invoke(takedown_command, ["apply", "T0.takedown.json", "--json", *where])
    assert json.loads(again.stdout)["old_versions"] == {"objects": 0, "bytes": 0}
