from pathlib import Path

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.stage_records import has_recorded_shards, newest_checkpoint_step, retract_stage
from orchestrator.attempt_id import AttemptId
from orchestrator.identity import fingerprint_of
from orchestrator.shards import Quarantined, ShardOutcome
from orchestrator.store.store import Store

PAYLOAD = {"kind": "train"}
KEY = ArtifactKey("train", fingerprint_of({"kind": "train"}))
SHARD = ArtifactKey("train", "5" * 64)


def make(artifacts: ArtifactStore, tmp_path: Path, run_id: str) -> None:
    """Commit a shard, a checkpoint of step 10 and the artifact in the name of a run."""
    attempt = AttemptId.of(run_id, "stage", epoch=1, number=1)
    ledger = ShardLedger(artifacts.store, artifacts.cache)
    ledger.record(ledger.new_output(SHARD, owner=attempt.name), ShardOutcome(rows=1), provenance={})
    checkpoints = StoredCheckpoints(store=artifacts.store, cache=artifacts.cache, key=KEY, attempt=attempt)
    (tmp_path / "weights").mkdir(exist_ok=True)
    (tmp_path / "weights" / "part").write_text(run_id)
    checkpoints.commit(10, tmp_path / "weights", {})
    draft = ManifestDraft(kind="model@1", payload=dict(PAYLOAD), metrics={}, shards=(SHARD.fingerprint,))
    artifacts.commit(artifacts.new_attempt(KEY, attempt.name), draft, epoch=1)


def exist(artifacts: ArtifactStore) -> tuple[bool, bool, int | None]:
    """Whether the artifact and its shard exist, and the newest checkpoint."""
    shard = ShardLedger(artifacts.store, artifacts.cache).find(SHARD)
    return artifacts.find(KEY) is not None, shard is not None, newest_checkpoint_step(artifacts.store, KEY)


def test_a_stage_is_retracted_with_its_shards_and_checkpoints_but_not_the_runs_own(
    store: Store, tmp_path: Path
) -> None:
    artifacts = ArtifactStore(store, tmp_path / "cache")
    assert exist(artifacts) == (False, False, None)
    make(artifacts, tmp_path, "run-1")
    assert exist(artifacts) == (True, True, 10)
    for _ in range(2):  # may be repeated
        retract_stage(artifacts, KEY, run_id="run-2", reason="made again")
        assert exist(artifacts) == (False, False, None)
    make(artifacts, tmp_path, "run-2")
    retract_stage(artifacts, KEY, run_id="run-2", reason="made again")
    assert exist(artifacts) == (True, True, 10)


def test_a_run_is_not_mistaken_for_one_whose_id_starts_alike(memory_store: Store, tmp_path: Path) -> None:
    artifacts = ArtifactStore(memory_store, tmp_path / "cache")
    make(artifacts, tmp_path, "run-12")
    retract_stage(artifacts, KEY, run_id="run-1", reason="made again")
    assert exist(artifacts) == (False, False, None)


def test_the_recorded_shards_of_an_attempt_are_told_from_those_of_others(store: Store, tmp_path: Path) -> None:
    ledger = ShardLedger(store, tmp_path / "cache")
    outputs = {owner: ledger.new_output(ArtifactKey("train", digit * 64), owner=owner) for owner, digit in OWNERS}
    for output in outputs.values():
        (output.data / "rows").write_text("rows")
    for owner in ("run-train-1-1", "run-train-1-10"):
        ledger.record(outputs[owner], ShardOutcome(rows=1), provenance={})
    ledger.abort(outputs["run-train-1-2"], reason="failed")
    found = {owner for owner, _ in OWNERS if has_recorded_shards(store, "train", owner)}
    assert found == {"run-train-1-1", "run-train-1-10"}
    assert not has_recorded_shards(store, "other", "run-train-1-1")


def test_only_the_shards_with_items_that_were_found_to_fail_are_retracted(store: Store, tmp_path: Path) -> None:
    artifacts = ArtifactStore(store, tmp_path / "cache")
    ledger = ShardLedger(store, tmp_path / "cache")
    outcomes = {
        "1": ShardOutcome(rows=1),
        "2": ShardOutcome(rows=1, quarantined=(Quarantined(item="a", reason="it fails", found_by="search"),)),
        "3": ShardOutcome(rows=1, quarantined=(Quarantined(item="a", reason="an old record", found_by="unknown"),)),
        "4": ShardOutcome(rows=1, quarantined=(Quarantined(item="a", reason="unreadable"),)),
    }
    keys = {digit: ArtifactKey("train", digit * 64) for digit in outcomes}
    for digit, outcome in outcomes.items():
        ledger.record(ledger.new_output(keys[digit], owner="run-1-stage-1-1"), outcome, provenance={})
    shards = tuple(key.fingerprint for key in keys.values())
    draft = ManifestDraft(kind="model@1", payload=dict(PAYLOAD), metrics={}, shards=shards)
    artifacts.commit(artifacts.new_attempt(KEY, "run-1-stage-1-1"), draft, epoch=1)
    retract_stage(artifacts, KEY, run_id="run-2", reason="tried again", only_quarantined=True)
    assert artifacts.find(KEY) is None
    assert [digit for digit, key in keys.items() if ledger.find(key)] == ["1", "4"]


OWNERS = (("run-train-1-1", "1"), ("run-train-1-10", "2"), ("run-train-1-2", "3"), ("run-train-1-3", "4"))
