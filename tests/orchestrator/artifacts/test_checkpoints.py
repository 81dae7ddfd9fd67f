import hashlib
import json
import logging
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import ArtifactKey, Chunks, FileEntry
from orchestrator.artifacts.checkpoints import StoredCheckpoints, checkpoint_files
from orchestrator.artifacts.restarts import with_restart
from orchestrator.artifacts.takedowns import Restart, Takedown, put_takedown
from orchestrator.attempt_id import AttemptId
from orchestrator.backends.objects import Digest
from orchestrator.errors import CorruptArtifactError, FencedError, StoreError, TakenDownError
from orchestrator.store.commits import head
from orchestrator.store.layout import checkpoint_site
from orchestrator.store.store import Store, record_bytes
from tests.orchestrator.conftest import MemoryStore

FINGERPRINT = "ab" * 32


@pytest.fixture
def checkpoints(store: Store, tmp_path: Path) -> StoredCheckpoints:
    return StoredCheckpoints(
        store=store,
        cache=tmp_path / "cache",
        key=ArtifactKey("train", FINGERPRINT),
        attempt=AttemptId(run_id="run", stage_id="stage", epoch=1, name="a1"),
    )


@pytest.fixture
def local(local_store: Store, tmp_path: Path) -> StoredCheckpoints:
    return StoredCheckpoints(
        store=local_store,
        cache=tmp_path / "cache",
        key=ArtifactKey("train", FINGERPRINT),
        attempt=AttemptId(run_id="run", stage_id="stage", epoch=1, name="a1"),
    )


def folder_with(tmp_path: Path, content: str) -> Path:
    folder = tmp_path / "trainer"
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text(f"weights {content}")
    (folder / "deep/optimizer").write_text(f"optimizer {content}")
    return folder


def save(checkpoints: StoredCheckpoints, tmp_path: Path, *steps: int) -> None:
    for step in steps:
        checkpoints.commit(step, folder_with(tmp_path, str(step)), {"step": step, "loss": 0.5})


def spoil(checkpoints: StoredCheckpoints, step: int, name: str = "weights") -> None:
    """Change a byte of a committed file, as a failing disk would."""
    site = checkpoint_site(ArtifactKey("train", FINGERPRINT), step)
    keys = [item.key for item in checkpoints.store.list(site.attempts) if item.key.endswith(f"/{name}")]
    data = checkpoints.store.get(keys[0])
    assert data
    checkpoints.store.delete(keys[0])
    checkpoints.store.put_new(keys[0], bytes([data[0] ^ 1]) + data[1:])


def steps_stored(checkpoints: StoredCheckpoints) -> list[str]:
    folder = f"artifacts/train/ab/{FINGERPRINT}/checkpoints"
    return sorted({item.key.split("/")[5] for item in checkpoints.store.list(folder) if "/data/" in item.key})


def test_the_newest_checkpoint_is_found_with_its_files_and_meta(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    assert checkpoints.latest() is None
    save(checkpoints, tmp_path, 10, 9, 100)
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.step, latest.meta) == (100, {"step": 100, "loss": 0.5})
    assert (latest.path / "weights").read_text() == "weights 100"
    assert (latest.path / "deep/optimizer").read_text() == "optimizer 100"


def test_the_folder_of_the_trainer_is_not_changed(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    save(checkpoints, tmp_path, 1)
    folder_with(tmp_path, "of something else")  # overwrites the files in place
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.path / "weights").read_text() == "weights 1"


def test_another_attempt_in_another_process_finds_the_checkpoint(local: StoredCheckpoints, tmp_path: Path) -> None:
    save(local, tmp_path, 5)
    other = replace(pickle.loads(pickle.dumps(local)), attempt=replace(local.attempt, name="a2"))  # noqa: S301 - our own bytes
    assert other.latest() == local.latest()


@pytest.mark.parametrize("part", ["weights", "MANIFEST.json", "COMMIT"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_used(
    checkpoints: StoredCheckpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    save(checkpoints, tmp_path, 1, 2)
    if part == "COMMIT":
        key = checkpoint_site(ArtifactKey("train", FINGERPRINT), 2).commit_key(0)
        checkpoints.store.delete(key)
        checkpoints.store.put_new(key, b"{")
    else:
        spoil(checkpoints, 2, part)
    fresh = replace(checkpoints, cache=tmp_path / "elsewhere", verified=set())
    with caplog.at_level(logging.WARNING):
        latest = fresh.latest()
    assert latest is not None
    assert latest.step == 1
    assert "checkpoint of step 2 skipped" in caplog.text


def test_the_first_commit_of_a_step_wins(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    checkpoints.commit(7, folder_with(tmp_path, "first"), {"who": "first"})
    checkpoints.commit(7, folder_with(tmp_path, "second"), {"who": "second"})
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.meta == {"who": "first"}
    assert (latest.path / "weights").read_text() == "weights first"


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_committed_again(
    checkpoints: StoredCheckpoints, tmp_path: Path
) -> None:
    save(checkpoints, tmp_path, 7)
    spoil(checkpoints, 7)
    fresh = replace(checkpoints, cache=tmp_path / "elsewhere", verified=set())
    save(fresh, tmp_path, 7)
    latest = fresh.latest()
    assert latest is not None
    assert (latest.path / "weights").read_text() == "weights 7"
    assert checkpoint_site(ArtifactKey("train", FINGERPRINT), 7).commit_key(1) in {
        item.key for item in checkpoints.store.list(f"artifacts/train/ab/{FINGERPRINT}/checkpoints")
    }


def test_pruning_keeps_the_newest_and_deletes_the_rest(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    save(checkpoints, tmp_path, 1, 2, 3, 4)
    checkpoints.prune(2)
    assert steps_stored(checkpoints) == [f"{step:012d}" for step in (3, 4)]
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 4


@pytest.mark.parametrize(
    ("needed", "best", "kept"),
    [
        (3, None, (3, 5, 6)),
        (5, None, (5, 6)),
        (6, None, (5, 6)),
        (0, None, (5, 6)),
        (None, 2, (2, 5, 6)),
        (None, 6, (4, 5, 6)),
        (4, 1, (1, 4, 5, 6)),
    ],
)
def test_pruning_also_keeps_what_is_needed_and_the_best(
    needed: int | None, best: int | None, kept: tuple[int, ...], checkpoints: StoredCheckpoints, tmp_path: Path
) -> None:
    save(checkpoints, tmp_path, 1, 2, 3, 4, 5, 6)
    checkpoints.prune(2, needed=needed, best=best)
    assert steps_stored(checkpoints) == [f"{step:012d}" for step in kept]


def test_where_the_needed_checkpoint_is_damaged_the_one_before_it_is_kept(
    local: StoredCheckpoints, tmp_path: Path
) -> None:
    save(local, tmp_path, 1, 2, 3, 4, 5)
    spoil(local, 3)
    replace(local, verified=set()).prune(1, needed=3)
    assert steps_stored(local) == [f"{step:012d}" for step in (2, 5)]


def test_a_damaged_checkpoint_does_not_count_as_kept(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    save(checkpoints, tmp_path, 1, 2, 3)
    spoil(checkpoints, 3)
    fresh = replace(checkpoints, cache=tmp_path / "elsewhere", verified=set())
    fresh.prune(1)
    assert steps_stored(fresh) == [f"{2:012d}"]


def test_nothing_is_pruned_while_too_few_can_be_verified(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    save(checkpoints, tmp_path, 1, 2)
    spoil(checkpoints, 2)
    replace(checkpoints, cache=tmp_path / "elsewhere", verified=set()).prune(2)
    assert len(steps_stored(checkpoints)) == 2
    with pytest.raises(ValueError, match="expected at least 1"):
        checkpoints.prune(0)


def test_a_step_that_was_pruned_can_be_committed_again(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    save(checkpoints, tmp_path, 1, 2)
    checkpoints.prune(1)
    save(checkpoints, tmp_path, 1)
    assert steps_stored(checkpoints) == [f"{step:012d}" for step in (1, 2)]


def test_two_writers_of_one_step_leave_one_checkpoint(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    start = threading.Barrier(2)

    def write(name: str) -> None:
        start.wait()
        mine = replace(checkpoints, attempt=replace(checkpoints.attempt, name=name), verified=set())
        mine.commit(3, folder_with(tmp_path / name, name), {"who": name})

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.path / "weights").read_text() == f"weights {latest.meta['who']}"
    site = checkpoint_site(ArtifactKey("train", FINGERPRINT), 3)
    assert len([item for item in checkpoints.store.list(site.attempts) if "/data/" in item.key]) == 2


def test_later_steps_are_retracted_and_can_be_committed_differently(
    checkpoints: StoredCheckpoints, tmp_path: Path
) -> None:
    save(checkpoints, tmp_path, 10, 20, 30)
    for _ in range(2):  # may be repeated
        checkpoints.retract_after(10)
        found = checkpoints.latest()
        assert found is not None
        assert found.step == 10
    checkpoints.commit(20, folder_with(tmp_path, "another way"), {})
    found = checkpoints.latest()
    assert found is not None
    assert (found.step, (found.path / "weights").read_text()) == (20, "weights another way")


@pytest.mark.parametrize("action", ["commit", "retract_after"])
def test_a_step_whose_record_cannot_be_read_is_open_again(
    action: str, local: StoredCheckpoints, tmp_path: Path
) -> None:
    save(local, tmp_path, 1, 2)
    chosen = local.latest()
    assert chosen is not None
    site = checkpoint_site(local.key, 2)
    path = local.store.local(site.commit_key(0))
    assert path is not None
    path.write_bytes(b"{")
    with pytest.raises(CorruptArtifactError, match=r"found .*COMMIT"):
        replace(local, open_patience_s=0.0).open(2, chosen.digest)
    if action == "commit":
        local.commit(2, folder_with(tmp_path, "again"), {})
        newest = replace(local, verified=set()).latest()
        assert newest is not None
        assert (newest.step, (newest.path / "weights").read_text()) == (2, "weights again")
    else:
        local.retract_after(1)
        assert head(local.store, site).problem == ""


def test_the_copy_of_a_checkpoint_goes_with_it(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    save(checkpoints, tmp_path, 1, 2)
    newest = checkpoints.latest()
    assert newest is not None
    assert (newest.path / "weights").exists()
    checkpoints.retract_after(1)
    assert not newest.path.exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (lambda files: [{**files[0], "path": "../../../../../../../weights"}], "expected parts joined by single '/'"),
        (lambda files: [*files, files[0]], "found a path twice"),
    ],
)
def test_a_manifest_with_odd_paths_is_not_followed(
    files: Callable[[Any], Any], message: str, local: StoredCheckpoints, tmp_path: Path
) -> None:
    save(local, tmp_path, 1)
    site = checkpoint_site(local.key, 1)
    commit = head(local.store, site).commit
    assert commit is not None
    keys = (site.manifest_key(commit.attempt), site.commit_key(0))
    manifest, record = (json.loads(local.store.get(key) or b"") for key in keys)
    manifest["files"] = files(manifest["files"])
    data = record_bytes(manifest)
    record["manifest_sha256"] = hashlib.sha256(data).hexdigest()
    for key, content in zip(keys, (data, record_bytes(record)), strict=True):
        local.store.delete(key)
        local.store.put_new(key, content)
    with pytest.raises(CorruptArtifactError, match=message):
        local.open(1, record["manifest_sha256"])


def test_a_file_of_every_kept_checkpoint_is_read_oldest_first(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    save(checkpoints, tmp_path, 20, 10, 30)
    checkpoints.retract_after(20)
    store, key = checkpoints.store, checkpoints.key
    assert list(checkpoint_files(store, key, "weights")) == [(10, b"weights 10"), (20, b"weights 20")]
    assert list(checkpoint_files(store, key, "absent")) == []


def test_a_manifest_that_was_exchanged_is_not_believed(
    checkpoints: StoredCheckpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is valid, and all its files match it, but it is not the one that was committed."""
    save(checkpoints, tmp_path, 1, 2)
    site = checkpoint_site(ArtifactKey("train", FINGERPRINT), 2)
    (key,) = [item.key for item in checkpoints.store.list(site.attempts) if item.key.endswith("/MANIFEST.json")]
    data = checkpoints.store.get(key)
    assert data
    checkpoints.store.delete(key)
    checkpoints.store.put_new(key, data.replace(b'"loss":0.5', b'"loss":0.1'))
    assert checkpoints.store.get(key) != data
    latest = replace(checkpoints, cache=tmp_path / "elsewhere", verified=set()).latest()
    assert latest is not None
    assert (latest.step, latest.meta["loss"]) == (1, 0.5)
    assert "checkpoint of step 2 skipped" in caplog.text


def test_each_pruning_deletes_what_became_old_since_the_last(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(checkpoints, tmp_path, step)
        checkpoints.prune(2)
    assert steps_stored(checkpoints) == [f"{step:012d}" for step in (3, 4)]


def test_a_pruned_step_is_retracted_and_not_damaged(
    checkpoints: StoredCheckpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(checkpoints, tmp_path, 1, 2)
    checkpoints.prune(1)
    found = head(checkpoints.store, checkpoint_site(checkpoints.key, 1))
    assert (found.commit, found.problem) == (None, "")
    checkpoints.retract_after(1)
    assert replace(checkpoints, verified=set()).latest() is None
    assert "skipped" not in caplog.text


class TakenDownMeanwhile(MemoryStore):
    """A takedown takes effect while the files of a checkpoint arrive."""

    def upload(self, path: Path, key: str) -> Digest:
        if not list(self.list("takedowns")):
            put_takedown(self, Takedown(id="T1", note="", created="", content={"digests": frozenset({"d"})}))
        return super().upload(path, key)


def test_a_takedown_is_looked_for_again_right_before_a_checkpoint_is_committed(tmp_path: Path) -> None:
    payload = {"kind": "train", "sources": {"list": "s"}}
    made = StoredCheckpoints(
        store=TakenDownMeanwhile(),
        cache=tmp_path / "cache",
        key=ArtifactKey("train", FINGERPRINT),
        attempt=AttemptId(run_id="run", stage_id="stage", epoch=1, name="a1"),
        payload=payload,
    )
    with pytest.raises(TakenDownError, match="takedown 'T1' took effect while this was made"):
        save(made, tmp_path, 1)
    assert made.latest() is None
    with pytest.raises(TakenDownError):
        save(made, tmp_path, 2)
    knows_it = replace(made, known_takedowns=("T1",))
    save(knows_it, tmp_path, 1)
    assert knows_it.latest() is not None


def test_verifying_what_a_remote_store_keeps_copies_nothing(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    save(checkpoints, tmp_path, 1, 2)
    elsewhere = replace(checkpoints, cache=tmp_path / "elsewhere", verified=set(), ready=set())
    elsewhere.prune(1)
    assert not [path for path in elsewhere.cache.rglob("*") if path.name in ("weights", "optimizer")]
    assert steps_stored(checkpoints) == ["000000000002"]


def test_a_record_that_cannot_be_read_is_pruned_with_the_older_ones(
    checkpoints: StoredCheckpoints, tmp_path: Path
) -> None:
    save(checkpoints, tmp_path, 2, 3)
    site = checkpoint_site(ArtifactKey("train", FINGERPRINT), 1)
    checkpoints.store.put_new(site.commit_key(0), b"{")
    assert head(checkpoints.store, site).problem
    checkpoints.prune(1)
    assert head(checkpoints.store, site).problem == ""
    assert steps_stored(checkpoints) == ["000000000003"]


def written_by_many(checkpoints: StoredCheckpoints, step: int, *names: str) -> tuple[str, list[FileEntry]]:
    """A draft into which other processes write a file each."""
    draft = checkpoints.begin(step)
    others = [replace(checkpoints) for _ in names]
    parts = [[f"{name} of ".encode(), memoryview(str(step).encode())] for name in names]
    files = [
        other.write_part(step, draft, name, lambda chunks=chunks: chunks, sum(map(len, chunks)))
        for other, name, chunks in zip(others, names, parts, strict=True)
    ]
    return draft, files


def test_many_writers_make_one_checkpoint(checkpoints: StoredCheckpoints) -> None:
    draft, files = written_by_many(checkpoints, 1, "worker-1", "worker-0")
    assert checkpoints.latest() is None
    assert checkpoints.conclude(1, draft, files, {"step": 1})
    found = replace(checkpoints, verified=set()).latest()
    assert found is not None
    assert (found.step, found.meta) == (1, {"step": 1})
    assert (found.path / "worker-1").read_bytes() == b"worker-1 of 1"
    assert checkpoints.begin(1) == ""  # there is one


def test_the_first_draft_that_is_concluded_wins_and_the_other_leaves_nothing(checkpoints: StoredCheckpoints) -> None:
    drafts = [written_by_many(checkpoints, 1, name) for name in ("a", "b")]
    assert all(checkpoints.conclude(1, draft, files, {}) for draft, files in drafts)
    found = checkpoints.latest()
    assert found is not None
    assert [path.name for path in found.path.iterdir()] == ["a"]
    stored = {
        item.key.rsplit("/", 1)[1] for item in checkpoints.store.list(checkpoint_site(checkpoints.key, 1).attempts)
    }
    assert "b" not in stored


def test_an_aborted_attempt_begins_writes_and_concludes_nothing(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    save(checkpoints, tmp_path, 1)
    draft, files = written_by_many(checkpoints, 2, "a")
    successor = replace(checkpoints, attempt=replace(checkpoints.attempt, epoch=2, name="a2"), ready=set())
    successor.take_over()
    before = {item.key for item in checkpoints.store.list("artifacts")}
    with pytest.raises(FencedError):
        checkpoints.begin(3)
    with pytest.raises(FencedError):
        checkpoints.write_part(2, draft, "late", lambda: [b"x"], 1)
    with pytest.raises(FencedError):
        checkpoints.conclude(2, draft, files, {})
    assert {item.key for item in checkpoints.store.list("artifacts")} == before
    newest = successor.latest()
    assert newest is not None
    assert newest.step == 1


def test_two_writers_of_one_file_are_refused(memory_store: MemoryStore, tmp_path: Path) -> None:
    key, attempt = ArtifactKey("train", FINGERPRINT), AttemptId(run_id="run", stage_id="s", epoch=1, name="a1")
    checkpoints = StoredCheckpoints(store=memory_store, cache=tmp_path, key=key, attempt=attempt)
    draft, files = written_by_many(checkpoints, 1, "a")
    with pytest.raises(CorruptArtifactError, match="found a path twice"):
        checkpoints.conclude(1, draft, [*files, *files], {})


class Rotting(MemoryStore):
    """Loses the last byte of what is written in parts."""

    def write(self, key: str, chunks: Chunks, size: int) -> Digest:
        written = super().write(key, chunks, size)
        self.objects[key] = self.objects[key][:-1]
        return written


def test_a_part_is_read_back(tmp_path: Path) -> None:
    key, attempt = ArtifactKey("train", FINGERPRINT), AttemptId(run_id="run", stage_id="s", epoch=1, name="a1")
    checkpoints = StoredCheckpoints(store=Rotting(), cache=tmp_path, key=key, attempt=attempt)
    with pytest.raises(StoreError, match="right after writing"):
        written_by_many(checkpoints, 1, "a")


class Counting(MemoryStore):
    """Notes the keys whose bytes are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def digest(self, key: str) -> Digest | None:
        self.read.append(key)
        return super().digest(key)


def test_what_was_read_back_or_verified_once_is_not_read_again(tmp_path: Path) -> None:
    store, attempt = Counting(), AttemptId(run_id="run", stage_id="s", epoch=1, name="a1")
    checkpoints = StoredCheckpoints(store=store, cache=tmp_path, key=ArtifactKey("train", FINGERPRINT), attempt=attempt)
    draft, files = written_by_many(checkpoints, 1, "a")
    assert checkpoints.conclude(1, draft, files, {})
    store.read.clear()
    checkpoints.prune(1)
    assert store.read == []
    save(checkpoints, tmp_path, 2)  # copied, and not read back
    store.read.clear()
    checkpoints.prune(1)
    assert len(store.read) == 2
    checkpoints.prune(1)
    assert len(store.read) == 2


def continuing(checkpoints: StoredCheckpoints, step: int) -> StoredCheckpoints:
    """Those of another training that begins with the checkpoint of `step`."""
    (sha256,) = (
        str(commit.record["manifest_sha256"])
        for commit in [head(checkpoints.store, checkpoint_site(checkpoints.key, step)).commit]
        if commit is not None
    )
    known = Restart(stage_kind="train", fingerprint=FINGERPRINT, step=step, manifest_sha256=sha256)
    return replace(
        checkpoints,
        key=ArtifactKey("train", "cd" * 32),
        attempt=AttemptId(run_id="run2", stage_id="stage", epoch=1, name="a2"),
        payload=with_restart({"kind": "train"}, known),
        verified=set(),
        ready=set(),
    )


def test_a_training_begins_with_the_checkpoint_that_its_identity_names_and_then_with_its_own(
    checkpoints: StoredCheckpoints, tmp_path: Path
) -> None:
    save(checkpoints, tmp_path, 10, 20, 30)
    other = continuing(checkpoints, 20)
    other.take_over()
    found = other.latest()
    assert found is not None
    assert (found.step, found.meta["step"], (found.path / "weights").read_text()) == (20, 20, "weights 20")
    other.commit(25, folder_with(tmp_path, "25"), {"step": 25})
    other.take_over()  # as its next attempt does
    assert other.latest() is not None
    checkpoints.prune(1)  # the other training's are not needed any more
    other.take_over()  # nor to begin with
    assert [step for step, _ in checkpoint_files(checkpoints.store, other.key, "weights")] == [20, 25]
    other.verified.clear()
    newest = other.latest()
    assert newest is not None
    assert newest.step == 25


def test_another_checkpoint_of_the_same_step_is_not_the_one_to_begin_with(
    checkpoints: StoredCheckpoints, tmp_path: Path
) -> None:
    save(checkpoints, tmp_path, 20)
    other = continuing(checkpoints, 20)
    checkpoints.retract_after(10)
    checkpoints.commit(20, folder_with(tmp_path, "another way"), {"step": 20})
    with pytest.raises(CorruptArtifactError, match="is gone or damaged"):
        other.take_over()


def test_a_damaged_checkpoint_to_begin_with_is_no_reason_to_begin_from_scratch(
    local: StoredCheckpoints, tmp_path: Path
) -> None:
    save(local, tmp_path, 20)
    other = continuing(local, 20)
    spoil(local, 20)
    with pytest.raises(
        CorruptArtifactError, match=r"checkpoint of step 20 of train .* is gone or damaged; `illume run`"
    ):
        other.take_over()
    with pytest.raises(CorruptArtifactError, match="is gone or damaged"):
        other.latest()


def test_other_processes_open_what_one_has_verified_without_reading_every_byte_again(
    local: StoredCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(local, tmp_path, 5)
    chosen = local.latest()
    assert chosen is not None
    other = replace(local, verified=set(), open_patience_s=0.0)

    def no_byte_is_read(_store: Store, _key: str) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(Store, "digest", no_byte_is_read)
        assert other.open(5, chosen.digest) == chosen
    assert other.verified == set()  # so pruning would read it
    (chosen.path / "weights").unlink()
    with pytest.raises(CorruptArtifactError, match="file 'weights': found no file"):
        other.open(5, chosen.digest)
