import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import StoreError
from orchestrator.identity import fingerprint_of
from orchestrator.retention.garbage import AttemptFacts, Generation, delete_garbage, find_garbage, garbage_reason
from orchestrator.shards import ShardOutcome
from orchestrator.store.attempt_folder import AttemptFolder
from orchestrator.store.commits import Commit, Outcome, read_outcome
from orchestrator.store.layout import artifact_site
from orchestrator.store.store import Store

PAYLOAD = {"kind": "curate"}
FINGERPRINT = fingerprint_of(PAYLOAD)
DRAFT = ManifestDraft(kind="dataset@1", payload=dict(PAYLOAD), metrics={})
LATER_S = 4e9  # long after everything in these tests was written


def nobody(_attempt: str) -> bool:
    return False


@pytest.fixture
def artifacts(store: Store, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(store, tmp_path / "cache")


def published(artifacts: ArtifactStore, attempt_id: str) -> AttemptFolder:
    """An attempt whose files are in the store but which has no outcome."""
    attempt = artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), attempt_id)
    (attempt.data / "file").write_bytes(attempt_id.encode())
    attempt.publish()
    return attempt


def planned(artifacts: ArtifactStore) -> list[tuple[str, str]]:
    found = find_garbage(artifacts.store, now_s=LATER_S, is_live=nobody)
    return [(item.reason, item.attempt) for item in found]


def run_collection(artifacts: ArtifactStore) -> int:
    store = artifacts.store
    return delete_garbage(store, find_garbage(store, now_s=LATER_S, is_live=nobody), is_live=nobody).items


def test_finding_garbage_deletes_nothing(artifacts: ArtifactStore) -> None:
    published(artifacts, "dead")
    before = [item.key for item in artifacts.store.list("artifacts")]
    assert planned(artifacts) == [("abandoned", "dead")]
    assert [item.key for item in artifacts.store.list("artifacts")] == before


def test_an_abandoned_attempt_is_deleted_and_its_late_writer_cannot_commit(artifacts: ArtifactStore) -> None:
    late = published(artifacts, "late")
    assert run_collection(artifacts) == 1
    assert [item.key for item in artifacts.store.list("artifacts")] == [late.site.outcome_key("late")]
    late.data.mkdir(parents=True, exist_ok=True)
    (late.data / "file").write_bytes(b"written after the collection")
    with pytest.raises(StoreError, match="abandoned: deleted by the collector"):
        artifacts.commit(late, DRAFT, epoch=1)
    assert artifacts.find(ArtifactKey("curate", FINGERPRINT)) is None
    assert run_collection(artifacts) <= 1
    assert planned(artifacts) == []


def test_young_and_live_attempts_stay(artifacts: ArtifactStore, store: Store) -> None:
    published(artifacts, "busy")
    newest_s = max(item.modified_s for item in store.list("artifacts"))
    assert find_garbage(store, now_s=newest_s + 10, older_than_s=60, is_live=nobody) == []
    assert find_garbage(store, now_s=LATER_S, is_live=lambda attempt: attempt == "busy") == []


@pytest.mark.parametrize(("age_s", "is_found"), [(59.9, False), (60.0, True), (60.1, True)])
def test_an_attempt_is_old_from_the_age_on_that_was_given(
    age_s: float, is_found: bool, artifacts: ArtifactStore, store: Store
) -> None:
    published(artifacts, "dead")
    newest_s = max(item.modified_s for item in store.list("artifacts"))
    found = find_garbage(store, now_s=newest_s + age_s, older_than_s=60.0, is_live=nobody)
    assert [item.attempt for item in found] == (["dead"] if is_found else [])


def test_what_is_found_and_deleted_is_counted_in_files_and_bytes(artifacts: ArtifactStore) -> None:
    sizes = {"a": 3, "b/c": 40}
    for name in ("first", "second"):
        attempt = artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), name)
        for path, size in sizes.items():
            (attempt.data / path).parent.mkdir(parents=True, exist_ok=True)
            (attempt.data / path).write_bytes(bytes(size))
        attempt.publish()
    held = [item.bytes for item in artifacts.store.list("artifacts") if "/first/" in item.key]  # with its claim
    assert sorted(held)[:2] == [3, 40]
    plan = find_garbage(artifacts.store, now_s=LATER_S, is_live=nobody)
    assert sorted((item.attempt, item.files) for item in plan) == [("first", len(held)), ("second", len(held))]
    assert min(plan, key=lambda item: item.attempt).bytes == sum(held)
    done = delete_garbage(artifacts.store, plan, is_live=nobody)
    assert (done.items, done.bytes) == (2, sum(item.bytes for item in plan))
    assert (done.kept, done.retained) == ((), ())


def test_a_checkpoint_that_another_training_will_begin_with_stays(artifacts: ArtifactStore, tmp_path: Path) -> None:
    key = ArtifactKey("curate", FINGERPRINT)
    attempt = AttemptId(run_id="run", stage_id="stage", epoch=1, name="first")
    checkpoints = StoredCheckpoints(store=artifacts.store, cache=artifacts.cache, key=key, attempt=attempt)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/weights").write_bytes(b"weights")
    for step in (1, 2):
        checkpoints.commit(step, tmp_path / "checkpoint", {})
    artifacts.commit(published(artifacts, "first"), DRAFT, epoch=1)
    found = find_garbage(artifacts.store, now_s=LATER_S, is_live=nobody, awaited={(key, 1)})
    assert [(item.reason, item.site.manifest_key("x").split("/")[-4]) for item in found if item.site] == [
        ("checkpoint", f"{2:012d}")
    ]


def test_a_shard_output_lives_as_long_as_its_stage_attempt(artifacts: ArtifactStore) -> None:
    output = ShardLedger(artifacts.store, artifacts.cache).new_output(
        ArtifactKey("curate", "cd" * 32), owner="run-1-a1"
    )
    (output.data / "part").write_bytes(b"part")
    output.publish()
    assert find_garbage(artifacts.store, now_s=LATER_S, is_live=lambda attempt: attempt == "run-1-a1") == []
    assert planned(artifacts) == [("abandoned", output.attempt_id)]


def test_what_is_committed_stays_and_still_verifies(artifacts: ArtifactStore) -> None:
    attempt = published(artifacts, "winner")
    published(artifacts, "dead")
    made = artifacts.commit(attempt, DRAFT, epoch=1)
    assert planned(artifacts) == [("abandoned", "dead")]
    run_collection(artifacts)
    assert artifacts.open(ArtifactKey("curate", FINGERPRINT)) == made
    assert artifacts.verify(ArtifactKey("curate", FINGERPRINT)) == []


def test_a_commit_that_a_crash_left_open_is_finished_and_not_collected(artifacts: ArtifactStore) -> None:
    made = artifacts.commit(published(artifacts, "first"), DRAFT, epoch=1)
    artifacts.store.delete(artifact_site(ArtifactKey("curate", FINGERPRINT)).commit_key(0))  # as if never written
    assert planned(artifacts) == []
    assert artifacts.open(ArtifactKey("curate", FINGERPRINT)) == made


def test_an_outdated_list_deletes_nothing_in_use(artifacts: ArtifactStore) -> None:
    attempt = published(artifacts, "slow")
    plan = find_garbage(artifacts.store, now_s=LATER_S, is_live=nobody)
    made = artifacts.commit(attempt, DRAFT, epoch=1)
    done = delete_garbage(artifacts.store, plan, is_live=nobody)
    assert (done.items, done.bytes) == (0, 0)
    assert done.kept == (attempt.site.attempt_key("slow"),)
    assert artifacts.open(ArtifactKey("curate", FINGERPRINT)) == made


def test_files_of_a_retracted_artifact_are_deleted_and_the_next_one_stays(artifacts: ArtifactStore) -> None:
    artifacts.commit(published(artifacts, "first"), DRAFT, epoch=1)
    artifacts.retract(ArtifactKey("curate", FINGERPRINT), reason="its data must go")
    artifacts.commit(published(artifacts, "second"), DRAFT, epoch=1)
    assert planned(artifacts) == [("retracted", "first")]
    run_collection(artifacts)
    assert artifacts.verify(ArtifactKey("curate", FINGERPRINT)) == []
    assert artifacts.find(ArtifactKey("curate", FINGERPRINT)) is not None


def test_checkpoints_are_deleted_once_their_stage_is_committed_and_not_before(
    artifacts: ArtifactStore, tmp_path: Path
) -> None:
    checkpoints = StoredCheckpoints(
        store=artifacts.store,
        cache=artifacts.cache,
        key=ArtifactKey("curate", FINGERPRINT),
        attempt=AttemptId(run_id="run", stage_id="stage", epoch=1, name="first"),
    )
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/weights").write_bytes(b"weights")
    checkpoints.commit(1, tmp_path / "checkpoint", {})
    assert planned(artifacts) == []
    artifacts.commit(published(artifacts, "first"), DRAFT, epoch=1)
    assert [reason for reason, _ in planned(artifacts)] == ["checkpoint"]
    run_collection(artifacts)
    assert checkpoints.latest() is None
    assert artifacts.verify(ArtifactKey("curate", FINGERPRINT)) == []
    assert planned(artifacts) == []


def test_temporary_files_and_probes_of_interrupted_writes_are_deleted(local_store: Store) -> None:
    local_store.put_new("probe/1/first", b"probe")
    root = local_store.local("")
    assert root is not None
    (root / ".tmp/cut-off").write_bytes(b"half a record")
    os.utime(root / ".tmp/cut-off", (1e9, 1e9))
    plan = find_garbage(local_store, now_s=LATER_S, is_live=nobody)
    assert [(item.reason, item.key) for item in plan] == [("temporary", "probe/1/first"), ("temporary", ".tmp/cut-off")]
    assert delete_garbage(local_store, plan, is_live=nobody).bytes == 5 + 13
    assert list((root / ".tmp").iterdir()) == []


def test_records_of_finished_shards_are_kept_for_other_recipes(artifacts: ArtifactStore) -> None:
    ledger = ShardLedger(artifacts.store, artifacts.cache)
    output = ledger.new_output(ArtifactKey("curate", "cd" * 32), owner="a1")
    (output.data / "part").write_bytes(b"part")
    stored = ledger.record(output, ShardOutcome(rows=1), provenance={})
    assert planned(artifacts) == []
    assert ledger.find(ArtifactKey("curate", "cd" * 32)) == stored


def test_an_unreadable_outcome_is_left_alone(artifacts: ArtifactStore) -> None:
    attempt = published(artifacts, "odd")
    artifacts.store.put_new(attempt.site.outcome_key("odd"), b"{")
    decided = read_outcome(artifacts.store, attempt.site, "odd")
    assert decided is not None
    assert decided.kind == "UNREADABLE"
    assert planned(artifacts) == []


def generation(attempt: str | None, *, retracted: bool = False) -> Generation:
    commit = Commit(generation=0, attempt=attempt, epoch=1, committed_s=0.0, record={}) if attempt else None
    return Generation(commit=commit, retracted=retracted)


COMMIT_0 = Outcome(kind="COMMIT", generation=0, record={})


@pytest.mark.parametrize(
    ("decided", "generations", "is_live", "expected"),
    [
        (None, [], False, "abandoned"),
        (None, [], True, None),
        (None, [generation("me")], False, None),  # its outcome was lost, but it is committed
        (Outcome(kind="ABORT"), [], True, "aborted"),
        (COMMIT_0, [], False, None),  # anyone may still roll it forward
        (COMMIT_0, [generation("me")], False, None),
        (COMMIT_0, [generation("other")], True, "lost"),
        (COMMIT_0, [generation("me", retracted=True)], False, "retracted"),
        (COMMIT_0, [generation("other", retracted=True), generation("me")], False, None),
        (COMMIT_0, [generation(None)], False, None),  # an unreadable record may name it
        (COMMIT_0, [generation(None, retracted=True)], False, "retracted"),
        (Outcome(kind="UNREADABLE"), [generation("other")], False, None),
    ],
)
def test_the_table_of_garbage_reasons(
    decided: Outcome | None, generations: list[Generation], is_live: bool, expected: str | None
) -> None:
    facts = AttemptFacts(attempt="me", outcome=decided, generations=tuple(generations), is_live=is_live, is_old=True)
    assert garbage_reason(facts) == expected


def test_an_outdated_list_does_not_delete_a_checkpoint_that_was_committed_again(
    artifacts: ArtifactStore, tmp_path: Path
) -> None:
    checkpoints = StoredCheckpoints(
        store=artifacts.store,
        cache=artifacts.cache,
        key=ArtifactKey("curate", FINGERPRINT),
        attempt=AttemptId(run_id="run", stage_id="stage", epoch=1, name="first"),
    )
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/weights").write_bytes(b"weights")
    checkpoints.commit(1, tmp_path / "checkpoint", {})
    artifacts.commit(published(artifacts, "first"), DRAFT, epoch=1)
    plan = find_garbage(artifacts.store, now_s=LATER_S, is_live=nobody)
    again = replace(checkpoints, attempt=replace(checkpoints.attempt, name="second"))
    again.retract_after(0)
    again.commit(1, tmp_path / "checkpoint", {})
    done = delete_garbage(artifacts.store, plan, is_live=nobody)
    assert done.items == 0
    found = checkpoints.latest()
    assert found is not None
    assert (found.path / "weights").read_bytes() == b"weights"


def trained(artifacts: ArtifactStore) -> tuple[ArtifactKey, AttemptId]:
    """A committed artifact with a checkpoint that is not needed any more."""
    key, attempt = ArtifactKey("curate", FINGERPRINT), AttemptId.of("run-1", "train", epoch=1, number=1)
    folder = artifacts.new_attempt(key, attempt.name, attempt=attempt)
    state = artifacts.cache / "state"
    state.mkdir(parents=True)
    (state / "weights").write_bytes(b"weights")
    StoredCheckpoints(store=artifacts.store, cache=artifacts.cache, key=key, attempt=attempt).commit(5, state, {})
    artifacts.commit(folder, DRAFT, epoch=1)
    return key, attempt


def test_checkpoints_stay_if_their_stage_is_retracted_after_they_were_found(artifacts: ArtifactStore) -> None:
    key, attempt = trained(artifacts)
    found = find_garbage(artifacts.store, now_s=LATER_S, is_live=nobody)
    assert [item.reason for item in found] == ["checkpoint"]
    artifacts.retract(key, reason="forced")
    report = delete_garbage(artifacts.store, found, is_live=nobody)
    assert (report.items, report.kept) == (0, (found[0].key,))
    checkpoints = StoredCheckpoints(store=artifacts.store, cache=artifacts.cache, key=key, attempt=attempt)
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 5


def test_checkpoints_stay_while_an_attempt_at_their_stage_is_open(artifacts: ArtifactStore) -> None:
    key, _ = trained(artifacts)
    found = find_garbage(artifacts.store, now_s=LATER_S, is_live=nobody)
    folder = artifacts.new_attempt(key, "run-2-train-1-1")
    assert delete_garbage(artifacts.store, found, is_live=nobody).kept == (found[0].key,)
    artifacts.abort(folder, reason="stopped")
    assert delete_garbage(artifacts.store, found, is_live=nobody).items == 1
