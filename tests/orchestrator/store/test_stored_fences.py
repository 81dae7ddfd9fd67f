"""A small store with the records of fences, kept byte by byte in `stored_formats_fences.json`: they stay in force.

A training was aborted and replaced, and a commit of it arrived late; see `test_stored_formats.py` for everything else.
"""

import json
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.attempt_guard import AttemptGuard
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.run_epochs import EpochGuard, RunEpochs
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.artifacts.uses import Uses
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import FencedError, LeaseLostError, StoreError
from orchestrator.failures.failure_class import FailureClass
from orchestrator.liveness.job_records import JobRecords
from orchestrator.shards import FailedTry, Quarantined
from orchestrator.store.commits import retractions
from orchestrator.store.fences import read_fence
from orchestrator.store.layout import artifact_site, checkpoint_site
from orchestrator.store.store import Store, open_store
from orchestrator.store.store_identity import ExpectedStore, check_store

KEPT = json.loads(Path(__file__).with_name("stored_formats_fences.json").read_text())  # key -> text
TRAINING = ArtifactKey("train", "1c8392ad8a7667bf93c6e61c293f297b48426603affeef9591ae24cde64739e6")
SHARD = ArtifactKey("curate", "cd" * 32)
FIRST, SECOND = (AttemptId.of("run", "train", epoch=epoch, number=1) for epoch in (1, 2))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    for key, text in KEPT.items():
        path = tmp_path / "store" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return open_store(tmp_path / "store")


def checkpoints(store: Store, tmp_path: Path, attempt: AttemptId) -> StoredCheckpoints:
    return StoredCheckpoints(store=store, cache=tmp_path / "cache", key=TRAINING, attempt=attempt)


def test_claims_outcomes_and_fences_are_in_force(store: Store, tmp_path: Path) -> None:
    site = artifact_site(TRAINING)
    assert read_fence(store, site.attempts, FIRST.name) == {
        checkpoint_site(TRAINING, 1).commit_key(0),
        checkpoint_site(TRAINING, 2).commit_key(0),
        *(key for key, _ in retractions(store, checkpoint_site(TRAINING, 1), 0)),
    }
    with pytest.raises(FencedError, match="was aborted"):
        checkpoints(store, tmp_path, FIRST).commit(4, tmp_path, {})
    for name in (FIRST.name, SECOND.name):
        with pytest.raises(StoreError, match="never used"):
            ArtifactStore(store, tmp_path / "cache").new_attempt(TRAINING, name)
    latest = checkpoints(store, tmp_path, SECOND).latest()
    assert latest is not None
    assert latest.step == 2, "that of step 3 arrived after the fence"
    AttemptGuard(store=store, key=TRAINING, attempt=SECOND).check()


def test_a_retraction_names_its_attempt(store: Store) -> None:
    ((_, owner),) = retractions(store, checkpoint_site(TRAINING, 1), 0)
    assert owner == FIRST.name


def test_epochs_and_stop_requests_count(store: Store) -> None:
    epochs = RunEpochs(store=store, run_id="run")
    assert epochs.newest() == 2
    with pytest.raises(LeaseLostError, match="epoch 2 has taken over"):
        EpochGuard(epochs=epochs, epoch=1).check()
    with pytest.raises(LeaseLostError, match="another driver has claimed epoch 2"):
        epochs.claim(2, owner="process 3 on host")
    job = JobRecords(store=store, attempt=SECOND)
    assert job.is_announced()
    assert job.is_stop_requested()
    outcome = job.outcome()
    assert outcome is not None
    assert outcome.failure is not None
    assert (outcome.failure.failure, outcome.progressed) == (FailureClass.USER_CODE, True)
    (batch,) = job.telemetry()
    assert (batch.points, batch.progress) == ([("loss", 0.5, 1, 1.0)], (1, 4, "steps"))
    assert batch.events == [("note", {"text": "x"})]


def test_quarantined_items_have_their_evidence(store: Store, tmp_path: Path) -> None:
    shard = ShardLedger(store, tmp_path / "cache").find(SHARD)
    assert shard is not None
    tries = tuple(
        FailedTry(attempt="run-curate-1-1", process=process, error="ValueError: cannot decode", witness="b.jpg")
        for process in ("pid 71 on node-3", "pid 72 on node-4")
    )
    expected = Quarantined(item="a.jpg", reason="cannot decode", found_by="search", tries=tries)
    assert shard.outcome.quarantined == (expected,)


def test_records_of_use_takedowns_and_the_identity_are_read(store: Store) -> None:
    uses = Uses(store)
    assert uses.shards_in_use() == {SHARD}
    assert [use.attempt for use in uses.all() if SHARD in use.shards] == ["run-curate-1-1"]
    (of_input,) = uses.of_artifact(ArtifactKey("ingest", "ef" * 32))
    assert (of_input.run_id, of_input.attempt, of_input.key) == ("run", SECOND.name, TRAINING)
    (takedown,) = read_takedowns(store)
    assert takedown.examined == {"9" * 64}
    check_store(store, ExpectedStore(store_id=json.loads(KEPT["STORE.json"])["store_id"]))
