import hashlib
import json
import logging
import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifact import Artifact, ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.errors import CorruptArtifactError, NewerFormatError, StoreError, UnreachableStoreError
from orchestrator.identity import fingerprint_of
from orchestrator.shards import ShardOutcome
from orchestrator.store.attempt_folder import AttemptFolder
from orchestrator.store.commits import abort, head, read_outcome
from orchestrator.store.layout import artifact_site
from orchestrator.store.store import Store, record_bytes
from orchestrator.store.store_identity import establish

PAYLOAD = {"kind": "curate", "version": 1}
FINGERPRINT = fingerprint_of(PAYLOAD)
DRAFT = ManifestDraft(kind="dataset@1", payload=dict(PAYLOAD), metrics={"rows": 3.0, "loss": float("inf")})


@pytest.fixture
def artifacts(store: Store, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(store, tmp_path / "cache")


@pytest.fixture
def local(local_store: Store, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(local_store, tmp_path / "cache")


def attempt_with(artifacts: ArtifactStore, attempt_id: str, **files: bytes) -> AttemptFolder:
    attempt = artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), attempt_id)
    for name, data in (files or {"file": b"content"}).items():
        (attempt.data / "deep").mkdir(exist_ok=True)
        (attempt.data / "deep" / name).write_bytes(data)
    return attempt


def make(artifacts: ArtifactStore, attempt_id: str = "first", **files: bytes) -> Artifact:
    return artifacts.commit(attempt_with(artifacts, attempt_id, **files), DRAFT, epoch=1)


def committed_by(artifacts: ArtifactStore) -> str:
    commit = head(artifacts.store, artifact_site(ArtifactKey("curate", FINGERPRINT))).commit
    assert commit is not None
    return commit.attempt


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_committed_artifact_is_found_opened_and_sound(artifacts: ArtifactStore) -> None:
    assert artifacts.find(ArtifactKey("curate", FINGERPRINT)) is None
    made = make(artifacts, one=b"1", two=b"22")
    assert artifacts.find(ArtifactKey("curate", FINGERPRINT)) == made.manifest
    assert artifacts.open(ArtifactKey("curate", FINGERPRINT)) == made
    assert [(file.path, file.bytes) for file in made.manifest.files] == [("deep/one", 1), ("deep/two", 2)]
    assert made.manifest.files[1].sha256 == hashlib.sha256(b"22").hexdigest()
    assert (made.path / "deep/two").read_bytes() == b"22"
    assert made.metrics == {"rows": 3.0, "loss": float("inf")}
    assert artifacts.verify(ArtifactKey("curate", FINGERPRINT)) == []


def test_the_records_say_which_manifest_which_epoch_and_which_attempt(artifacts: ArtifactStore) -> None:
    made = make(artifacts)
    site = artifact_site(ArtifactKey("curate", FINGERPRINT))
    commit = json.loads(artifacts.store.get(site.commit_key(0)) or b"")
    decided = json.loads(artifacts.store.get(site.outcome_key("first")) or b"")
    manifest = artifacts.store.get(site.manifest_key("first")) or b""
    assert (commit["attempt"], commit["epoch"], commit["manifest_sha256"]) == ("first", 1, made.manifest_sha256)
    assert (decided["outcome"], decided["record"]) == ("COMMIT", commit)
    assert hashlib.sha256(manifest).hexdigest() == made.manifest_sha256


def test_an_attempt_without_a_commit_is_not_an_artifact(artifacts: ArtifactStore) -> None:
    attempt_with(artifacts, "first").publish()
    assert artifacts.find(ArtifactKey("curate", FINGERPRINT)) is None
    assert list(artifacts.all()) == []
    with pytest.raises(CorruptArtifactError, match="found no commit record; run its stage again"):
        artifacts.open(ArtifactKey("curate", FINGERPRINT))


def test_the_second_attempt_returns_the_first_artifact_and_leaves_no_files(artifacts: ArtifactStore) -> None:
    late = attempt_with(artifacts, "late", file=b"other content")
    winner = make(artifacts, "early", file=b"content")
    assert artifacts.commit(late, DRAFT, epoch=2) == winner
    site = artifact_site(ArtifactKey("curate", FINGERPRINT))
    assert [item.key for item in artifacts.store.list(site.attempt_key("late"))] == [site.outcome_key("late")]
    assert not late.data.exists()


def test_an_attempt_that_loses_at_the_commit_record_returns_the_winner(artifacts: ArtifactStore) -> None:
    """The other attempt commits between this attempt's read of the head and its outcome."""
    late = attempt_with(artifacts, "late", file=b"other content")

    class Between:
        def __getattr__(self, name: str) -> object:
            return getattr(artifacts.store, name)

        def put_new(self, key: str, data: bytes) -> bool:
            if key == late.site.outcome_key("late"):
                make(artifacts, "early", file=b"content")
            return artifacts.store.put_new(key, data)

    adopted = ArtifactStore(Between(), artifacts.cache).commit(late, DRAFT, epoch=2)  # type: ignore[arg-type]  # a proxy
    assert (adopted.path / "deep/file").read_bytes() == b"content"
    assert committed_by(artifacts) == "early"
    assert artifacts.verify(ArtifactKey("curate", FINGERPRINT)) == []


def test_a_decided_attempt_is_rolled_forward_by_a_competitor(artifacts: ArtifactStore) -> None:
    """A competitor finds the outcome of an attempt without a commit record, and writes the record for it."""
    slow = attempt_with(artifacts, "slow", file=b"slow content")

    class Between:
        def __getattr__(self, name: str) -> object:
            return getattr(artifacts.store, name)

        def put_new(self, key: str, data: bytes) -> bool:
            if key.endswith("/COMMIT"):
                assert (make(artifacts, "fast", file=b"content").path / "deep/file").read_bytes() == b"slow content"
            return artifacts.store.put_new(key, data)

    made = ArtifactStore(Between(), artifacts.cache).commit(slow, DRAFT, epoch=2)  # type: ignore[arg-type]  # a proxy
    assert (made.path / "deep/file").read_bytes() == b"slow content"


def test_an_aborted_attempt_cannot_commit_and_the_error_says_why(artifacts: ArtifactStore) -> None:
    attempt = attempt_with(artifacts, "slow")
    assert abort(artifacts.store, attempt.site, "slow", reason="its lease ran out")
    with pytest.raises(StoreError, match=r"attempt 'slow' was aborted before it could commit \(its lease ran out\)"):
        artifacts.commit(attempt, DRAFT, epoch=1)
    assert artifacts.find(ArtifactKey("curate", FINGERPRINT)) is None


def test_an_attempt_aborted_by_its_owner_leaves_only_its_outcome(artifacts: ArtifactStore) -> None:
    attempt = attempt_with(artifacts, "failed")
    assert artifacts.abort(attempt, reason="the stage failed")
    assert not attempt.data.exists()
    decided = read_outcome(artifacts.store, attempt.site, "failed")
    assert decided is not None
    assert (decided.kind, decided.reason) == ("ABORT", "the stage failed")


def test_a_committed_attempt_cannot_be_aborted(artifacts: ArtifactStore) -> None:
    attempt = attempt_with(artifacts, "first")
    made = artifacts.commit(attempt, DRAFT, epoch=1)
    assert not artifacts.abort(attempt, reason="too late")
    assert artifacts.open(ArtifactKey("curate", FINGERPRINT)) == made


def test_committing_twice_gives_the_same_artifact(artifacts: ArtifactStore) -> None:
    attempt = attempt_with(artifacts, "first")
    assert artifacts.commit(attempt, DRAFT, epoch=1) == artifacts.commit(attempt, DRAFT, epoch=1)


def test_an_attempt_id_is_used_once(artifacts: ArtifactStore) -> None:
    attempt_with(artifacts, "first")
    with pytest.raises(StoreError, match="expected an attempt id that was never used"):
        artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), "first")


def test_another_process_can_commit_an_attempt(local: ArtifactStore, s3_store: Store) -> None:
    for artifacts in (local, ArtifactStore(s3_store, local.cache)):
        attempt = attempt_with(artifacts, "first")
        copy, store = pickle.loads(pickle.dumps((attempt, artifacts)))  # noqa: S301 - our own bytes
        assert store.commit(copy, DRAFT, epoch=1) == artifacts.open(ArtifactKey("curate", FINGERPRINT))


def test_many_threads_committing_one_fingerprint_get_one_artifact(artifacts: ArtifactStore) -> None:
    attempts = [attempt_with(artifacts, f"attempt-{number}", file=bytes([number])) for number in range(6)]
    got: list[Artifact] = []
    start = threading.Barrier(len(attempts))

    def commit(attempt: AttemptFolder) -> None:
        start.wait()
        got.append(artifacts.commit(attempt, DRAFT, epoch=1))

    threads = [threading.Thread(target=commit, args=(attempt,)) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert {artifact.manifest_sha256 for artifact in got} == {got[0].manifest_sha256}
    site = artifact_site(ArtifactKey("curate", FINGERPRINT))
    data = [item.key for item in artifacts.store.list(site.attempts) if "/data/" in item.key]
    assert data == [f"{site.data_key(committed_by(artifacts))}/deep/file"]


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damage_is_named_healed_and_made_again(local: ArtifactStore, damage: str) -> None:
    made = make(local, "first", one=b"1", two=b"22")
    path = made.path / "deep/two"
    overwrite(path, {"flip": b"2x", "cut": b"2", "delete": b""}[damage])
    if damage == "delete":
        path.unlink()
    problems = local.verify(ArtifactKey("curate", FINGERPRINT))
    assert [(problem.stage_kind, problem.fingerprint, problem.path) for problem in problems] == [
        ("curate", FINGERPRINT, "deep/two")
    ]
    assert "curate" in str(problems[0])
    assert "file 'deep/two': found" in str(problems[0])
    before = (local.store.get(artifact_site(ArtifactKey("curate", FINGERPRINT)).commit_key(0)), 0)
    assert (local.find(ArtifactKey("curate", FINGERPRINT)) is not None) == (damage == "flip")  # by lengths alone
    assert local.heal(ArtifactKey("curate", FINGERPRINT)) == problems
    assert local.find(ArtifactKey("curate", FINGERPRINT)) is None
    again = make(local, "second", one=b"1", two=b"22")
    assert again.manifest.files == made.manifest.files
    assert local.verify(ArtifactKey("curate", FINGERPRINT)) == []
    assert (local.store.get(artifact_site(ArtifactKey("curate", FINGERPRINT)).commit_key(0)), 0) == before


def test_a_missing_file_counts_as_absent_and_the_next_commit_takes_its_place(
    local: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(local, "first")
    (made.path / "deep/file").unlink()
    with caplog.at_level(logging.WARNING):
        assert local.find(ArtifactKey("curate", FINGERPRINT)) is None
    assert "file 'deep/file': found no file, expected 7 bytes" in caplog.text
    with pytest.raises(CorruptArtifactError, match="file 'deep/file': found no file"):
        local.open(ArtifactKey("curate", FINGERPRINT))
    assert make(local, "second").manifest.files == made.manifest.files


def test_healing_a_sound_artifact_changes_nothing(artifacts: ArtifactStore) -> None:
    made = make(artifacts)
    assert artifacts.heal(ArtifactKey("curate", FINGERPRINT)) == []
    assert artifacts.open(ArtifactKey("curate", FINGERPRINT)) == made


def test_a_late_attempt_of_a_retracted_generation_cannot_commit(artifacts: ArtifactStore) -> None:
    """It decided to commit to generation 0, lost, and its files were deleted; generation 1 must not use it."""
    make(artifacts, "winner")
    site = artifact_site(ArtifactKey("curate", FINGERPRINT))
    late = record_bytes(
        {
            "format": 1,
            "outcome": "COMMIT",
            "generation": 0,
            "record": {"format": 1, "attempt": "late", "epoch": 1, "manifest_sha256": "0" * 64},
        }
    )
    artifacts.store.put_new(site.outcome_key("late"), late)
    assert artifacts.retract(ArtifactKey("curate", FINGERPRINT), reason="its data must go")
    assert artifacts.find(ArtifactKey("curate", FINGERPRINT)) is None
    assert not artifacts.retract(ArtifactKey("curate", FINGERPRINT), reason="again")
    assert make(artifacts, "third").manifest.files
    assert committed_by(artifacts) == "third"


def test_a_crash_between_the_outcome_and_the_commit_record_is_finished_by_any_reader(artifacts: ArtifactStore) -> None:
    made = make(artifacts)
    artifacts.store.delete(artifact_site(ArtifactKey("curate", FINGERPRINT)).commit_key(0))  # as if never written
    assert artifacts.find(ArtifactKey("curate", FINGERPRINT)) == made.manifest
    assert committed_by(artifacts) == "first"


JUNK = [b"", b"{", b'{"format":1', b"null", b"[]", b"\x00\xff", b'{"format":0}', b'{"format":1,"attempt":"../../x"}']


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("record", ["commit", "manifest", "outcome"])
def test_junk_in_a_record_counts_as_absent_and_is_replaced(local: ArtifactStore, record: str, junk: bytes) -> None:
    made = make(local, "first")
    site = artifact_site(ArtifactKey("curate", FINGERPRINT))
    key = {"commit": site.commit_key(0), "manifest": site.manifest_key("first"), "outcome": site.outcome_key("first")}
    path = local.store.local(key[record])
    assert path is not None
    path.write_bytes(junk)
    list(local.all())
    if record == "outcome":  # not needed once the commit record exists
        assert local.open(ArtifactKey("curate", FINGERPRINT)) == made
        return
    assert local.find(ArtifactKey("curate", FINGERPRINT)) is None
    with pytest.raises(CorruptArtifactError, match=path.name):
        local.open(ArtifactKey("curate", FINGERPRINT))
    assert len(local.verify(ArtifactKey("curate", FINGERPRINT))) == 1
    assert make(local, "second").manifest.files == made.manifest.files
    assert local.verify(ArtifactKey("curate", FINGERPRINT)) == []
    assert [stored.commit.attempt for stored in local.all()] == ["second"]


def test_a_record_of_a_newer_format_is_neither_replaced_nor_retracted(local: ArtifactStore) -> None:
    key = ArtifactKey("curate", FINGERPRINT)
    make(local, "first")
    path = local.store.local(artifact_site(key).commit_key(0))
    assert path is not None
    newer = path.read_bytes().replace(b'"format":1', b'"format":27')
    path.write_bytes(newer)
    for read in (local.find, local.open, local.verify, local.heal, lambda _key: list(local.all())):
        with pytest.raises(NewerFormatError, match="COMMIT: found format 27, expected 1; read it with the version of"):
            read(key)
    with pytest.raises(NewerFormatError):
        make(local, "second")
    assert path.read_bytes() == newer
    assert [file.name for file in path.parent.glob("COMMIT*")] == ["COMMIT"]


def test_a_manifest_that_points_out_of_its_folder_is_refused(local: ArtifactStore) -> None:
    attempt = attempt_with(local, "evil")
    made = local.commit(attempt, DRAFT, epoch=1)
    site = artifact_site(ArtifactKey("curate", FINGERPRINT))
    manifest = json.loads(local.store.get(site.manifest_key("evil")) or b"")
    manifest["files"][0]["path"] = "../../../../../../../../etc/passwd"
    data = record_bytes(manifest)
    commit = json.loads(local.store.get(site.commit_key(0)) or b"") | {
        "manifest_sha256": hashlib.sha256(data).hexdigest()
    }
    for key, content in ((site.manifest_key("evil"), data), (site.commit_key(0), record_bytes(commit))):
        local.store.delete(key)
        local.store.put_new(key, content)
    assert made.manifest.files
    with pytest.raises(CorruptArtifactError, match=r"files\[0\]\.path: found .*expected parts joined by single '/'"):
        local.open(ArtifactKey("curate", FINGERPRINT))


def test_a_manifest_that_was_exchanged_for_a_sound_one_is_not_believed(local: ArtifactStore) -> None:
    made = make(local)
    key = artifact_site(ArtifactKey("curate", FINGERPRINT)).manifest_key("first")
    path = local.store.local(key)
    assert path is not None
    overwrite(path, path.read_bytes().replace(b"3.0", b"4.0"))
    with pytest.raises(CorruptArtifactError, match=f"found SHA-256 .*, expected {made.manifest_sha256}"):
        local.open(ArtifactKey("curate", FINGERPRINT))


def test_an_artifact_without_its_manifest_or_with_that_of_another_one_is_not_opened(artifacts: ArtifactStore) -> None:
    key, other = ArtifactKey("curate", FINGERPRINT), ArtifactKey("curate", "ab" * 32)
    make(artifacts)
    site, other_site = artifact_site(key), artifact_site(other)
    for of_one, of_other in (
        (site.commit_key(0), other_site.commit_key(0)),
        (site.manifest_key("first"), other_site.manifest_key("first")),
        (site.outcome_key("first"), other_site.outcome_key("first")),
    ):
        data = artifacts.store.get(of_one)
        assert data is not None
        artifacts.store.put_new(of_other, data)
    with pytest.raises(CorruptArtifactError, match=f"found the manifest of {key}"):
        artifacts.open(other)
    artifacts.store.delete(site.manifest_key("first"))
    with pytest.raises(CorruptArtifactError, match="found no manifest, expected the committed one"):
        artifacts.open(key)
    with pytest.raises(CorruptArtifactError, match="found no commit record; run its stage again"):
        artifacts.open(ArtifactKey("curate", "cd" * 32))


def test_a_record_that_cannot_be_read_can_be_retracted(local: ArtifactStore) -> None:
    key = ArtifactKey("curate", FINGERPRINT)
    make(local)
    path = local.store.local(artifact_site(key).commit_key(0))
    assert path is not None
    path.write_bytes(b"{")
    assert local.retract(key, reason="junk")
    assert head(local.store, artifact_site(key)).problem == ""


def test_the_files_of_a_remote_artifact_are_kept_where_it_was_made_and_not_where_it_is_located(
    memory_store: Store, tmp_path: Path
) -> None:
    here, there = ArtifactStore(memory_store, tmp_path / "here"), ArtifactStore(memory_store, tmp_path / "there")
    attempt = attempt_with(here, "first")
    made = here.commit(attempt, DRAFT, epoch=1, is_opened=False)
    assert (made.path / "deep/file").read_bytes() == b"content"  # no download
    assert not attempt.data.exists()
    assert not there.locate(made.manifest.key).path.exists()
    assert (there.open(made.manifest.key).path / "deep/file").read_bytes() == b"content"


def test_what_is_missing_because_its_folder_is_not_mounted_is_not_damaged(local: ArtifactStore) -> None:
    establish(local.store, ["curate"])
    made = make(local)
    (made.path / "deep/file").unlink()
    local.store.delete("artifacts/curate/STORE")  # as it looks where the folder is not mounted
    key = made.manifest.key
    for action in (local.find, local.heal, lambda _key: make(local, "second")):
        with pytest.raises(UnreachableStoreError, match="Is it mounted"):
            action(key)
    assert head(local.store, artifact_site(key)).generation == 0  # nothing was retracted


def test_the_damaged_shards_of_a_damaged_artifact_are_healed_with_it(local: ArtifactStore) -> None:
    ledger, key = ShardLedger(local.store, local.cache), ArtifactKey("curate", "cd" * 32)
    output = ledger.new_output(key, owner="run-1-a1")
    (output.data / "part").write_bytes(b"part")
    ledger.record(output, ShardOutcome(rows=1), provenance={})
    attempt = attempt_with(local, "first")
    made = local.commit(attempt, replace(DRAFT, shards=(key.fingerprint,)), epoch=1)
    overwrite(made.path / "deep/file", b"Content")
    [part] = [item.key for item in local.store.list("shards") if item.key.endswith("/part")]
    path = local.store.local(part)
    assert path is not None
    overwrite(path, b"parT")
    assert [problem.path for problem in local.heal(made.manifest.key)] == ["deep/file", "part"]
    assert ledger.heal(key) == []  # it is retracted already


def test_a_local_artifact_is_checked_when_it_is_located(local: ArtifactStore) -> None:
    made = make(local)
    (made.path / "deep/file").unlink()
    with pytest.raises(CorruptArtifactError, match="found no file"):
        local.locate(made.manifest.key)


def test_listing_all_skips_foreign_folders_and_retracted_artifacts_and_says_what_it_cannot_read(
    artifacts: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    make(artifacts)
    other = artifacts.new_attempt(ArtifactKey("train", "ab" * 32), "t1")
    (other.data / "w").write_bytes(b"weights")
    artifacts.commit(other, DRAFT, epoch=4)
    for key in ("artifacts/README", "artifacts/curate/zz/junk/COMMIT", "artifacts/curate/ab/short/x", "artifacts/a/b"):
        artifacts.store.put_new(key, b"junk")
    found = [(stored.manifest.stage_kind, stored.commit.attempt, stored.commit.epoch) for stored in artifacts.all()]
    assert found == [("curate", "first", 1), ("train", "t1", 4)]
    artifacts.retract(ArtifactKey("train", "ab" * 32), reason="gone")
    assert [stored.manifest.stage_kind for stored in artifacts.all()] == ["curate"]
    assert "skipped" not in caplog.text
    artifacts.store.put_new(artifact_site(ArtifactKey("train", "ab" * 32)).commit_key(1), b"junk")
    assert [stored.manifest.stage_kind for stored in artifacts.all()] == ["curate"]
    assert list(artifacts.all("train")) == []
    assert caplog.text.count("skipped: ") == 2


def test_every_byte_is_on_the_disk_before_the_outcome_is_decided(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: set[str] = set()
    at_outcome: list[set[str]] = []
    fsync, link = os.fsync, os.link

    def spy_fsync(descriptor: int) -> None:
        forced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def spy_link(source: str, target: str) -> None:
        if Path(target).name == "OUTCOME":
            at_outcome.append(set(forced))
        link(source, target)

    attempt = attempt_with(local, "first", one=b"1", two=b"22")
    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "link", spy_link)
    local.commit(attempt, DRAFT, epoch=1)
    assert at_outcome[0] >= {"one", "two", "deep", "data", "first"}  # files, their folders, the attempt's folder


def test_committed_files_are_write_protected(local: ArtifactStore) -> None:
    assert (make(local).path / "deep/file").stat().st_mode & 0o222 == 0


def test_a_damaged_local_copy_of_a_remote_artifact_is_downloaded_again(s3_store: Store, tmp_path: Path) -> None:
    made = make(ArtifactStore(s3_store, tmp_path / "here"))
    elsewhere = ArtifactStore(s3_store, tmp_path / "there")
    copy = elsewhere.open(ArtifactKey("curate", FINGERPRINT))
    assert copy.path != made.path
    (copy.path / "deep/file").unlink()
    assert (elsewhere.open(ArtifactKey("curate", FINGERPRINT)).path / "deep/file").read_bytes() == b"content"


def test_other_programs_find_the_files_at_an_address_without_options(artifacts: ArtifactStore) -> None:
    made = make(artifacts)
    uri = artifacts.uri_of(made)
    assert uri.endswith("/attempts/first/data")
    if artifacts.store.is_local:
        assert uri == made.path.as_uri()
    else:
        assert uri.startswith(artifacts.store.url.partition("?")[0])
        assert "?" not in uri


def test_a_damaged_remote_file_is_noticed_while_downloading(s3_store: Store, tmp_path: Path) -> None:
    make(ArtifactStore(s3_store, tmp_path / "here"))
    key = f"{artifact_site(ArtifactKey('curate', FINGERPRINT)).data_key('first')}/deep/file"
    s3_store.delete(key)
    s3_store.put_new(key, b"CONTENT")
    elsewhere = ArtifactStore(s3_store, tmp_path / "there")
    with pytest.raises(CorruptArtifactError, match="file 'deep/file': found SHA-256"):
        elsewhere.open(ArtifactKey("curate", FINGERPRINT))
    assert not list((tmp_path / "there").rglob("file"))
    assert elsewhere.heal(ArtifactKey("curate", FINGERPRINT))[0].path == "deep/file"
    assert elsewhere.find(ArtifactKey("curate", FINGERPRINT)) is None
