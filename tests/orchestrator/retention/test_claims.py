"""Which shards and artifacts are claimed, case by case; `test_retention_model.py` tries the interleavings."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.uses import record_use
from orchestrator.attempt_id import AttemptId
from orchestrator.history.attempts import AttemptIntent, StageRow
from orchestrator.history.database.database import Database
from orchestrator.history.events import RunState
from orchestrator.history.leases import Leases
from orchestrator.history.run_store import RunStore
from orchestrator.identity import fingerprint_of
from orchestrator.liveness.job_records import JobOutcome, JobRecords
from orchestrator.liveness.liveness import Liveness
from orchestrator.retention.claims import Claims
from tests.orchestrator.conftest import MemoryStore

OLD, NEW = {"kind": "curate", "sources": 3}, {"kind": "curate", "sources": 4}
KEY = ArtifactKey("curate", fingerprint_of(dict(NEW)))
SHARD = ArtifactKey("curate", "01" * 32)
ATTEMPT = AttemptId.of("run-2", "curate", epoch=1, number=1)


class Desk:
    """A store and a database with runs of one stage."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.artifacts = ArtifactStore(self.store, folder / "cache")
        self.database = Database(str(folder / "index.db"))
        self.history, self.leases = RunStore(self.database), Leases(self.database)
        self.claims = Claims(Liveness(store=self.store, database=self.database, leases=self.leases, jobs=None))

    def start(self, run_id: str, *, recipe: str = "nightly", kind: str = "curate") -> int:
        row = StageRow(stage_id="curate", stage_kind=kind, fingerprint=KEY.fingerprint, action="run")
        self.history.create_run(run_id, recipe_name=recipe, plan_digest="d" * 64, stages=[row])
        lease = self.leases.acquire(f"run:{run_id}")
        assert lease
        return self.history.begin_epoch(run_id, lease)

    def end(self, run_id: str, epoch: int, state: RunState) -> None:
        self.history.transition_run(run_id, RunState.RUNNING, state, epoch=epoch)

    def commit(self, attempt_id: str) -> None:
        folder = self.artifacts.new_attempt(KEY, attempt_id)
        self.artifacts.commit(folder, ManifestDraft(kind="dataset@1", payload=dict(NEW), metrics={}), epoch=1)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    with closing(desk.database), closing(desk.history):
        yield desk


def test_a_run_at_work_claims_all_shards_of_a_kind_until_it_has_made_the_artifact(desk: Desk) -> None:
    assert not desk.claims.of_shards()(SHARD)
    desk.start("run-2")
    assert desk.claims.of_shards()(SHARD)
    assert not desk.claims.of_shards()(ArtifactKey("other", SHARD.fingerprint))
    desk.commit("run-2-curate-1-1")
    assert not desk.claims.of_shards()(SHARD)


def test_a_run_that_has_ended_claims_shards_while_a_job_of_it_may_be_running(desk: Desk) -> None:
    epoch = desk.start("run-2")
    desk.history.start_attempt(AttemptIntent(attempt=ATTEMPT, key=KEY, stage_version=1, config={}))
    job = JobRecords(store=desk.store, attempt=ATTEMPT)
    job.announce()
    desk.end("run-2", epoch, RunState.FAILED)
    assert desk.claims.of_shards()(SHARD)  # no cluster is at hand that could say that it has ended
    job.put_outcome(JobOutcome(stopped="cancelled"))
    assert not desk.claims.of_shards()(SHARD)


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.INTERRUPTED, RunState.CANCELLED])
def test_the_next_attempt_finds_the_shards_of_an_aborted_one_while_its_run_may_be_resumed(
    desk: Desk, state: RunState
) -> None:
    epoch = desk.start("run-2")
    folder = desk.artifacts.new_attempt(KEY, ATTEMPT.name)
    record_use(desk.store, ATTEMPT, KEY, shards=[SHARD.fingerprint])
    desk.artifacts.abort(folder, reason="stopped")
    desk.end("run-2", epoch, state)
    assert desk.claims.of_shards()(SHARD)
    assert not desk.claims.of_shards()(ArtifactKey("curate", "02" * 32))
    newer = desk.start("run-3", kind="other")
    assert desk.claims.of_shards()(SHARD) == (state is RunState.INTERRUPTED)
    (use,) = desk.claims.uses.all()
    assert desk.claims.is_over(use, desk.claims.resumable_runs()) == (state is not RunState.INTERRUPTED)
    desk.end("run-3", newer, RunState.SUCCEEDED)


def test_a_committed_attempt_claims_its_shards_unless_its_artifact_is_being_retracted(desk: Desk) -> None:
    record_use(desk.store, ATTEMPT, KEY, shards=[SHARD.fingerprint])
    assert desk.claims.of_shards([KEY])(SHARD)  # has no outcome
    desk.commit(ATTEMPT.name)
    assert desk.claims.of_shards()(SHARD)
    assert not desk.claims.of_shards([KEY])(SHARD)
    (use,) = desk.claims.uses.all()
    assert desk.claims.is_over(use, {"run-2"})


def test_an_input_on_record_is_claimed_until_its_reader_ends(desk: Desk) -> None:
    parent = ArtifactKey("ingest", "ef" * 32)
    folder = desk.artifacts.new_attempt(KEY, ATTEMPT.name)
    assert not desk.claims.of_artifacts()(parent)
    record_use(desk.store, ATTEMPT, KEY, artifacts=[parent])
    assert desk.claims.of_artifacts()(parent)
    desk.artifacts.abort(folder, reason="stopped")
    assert not desk.claims.of_artifacts()(parent)
