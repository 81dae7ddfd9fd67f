"""What is left of trainings, maps, runs and jobs that nobody continues, and what keeps it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.uses import record_use
from orchestrator.attempt_id import AttemptId
from orchestrator.history.attempts import AttemptIntent, StageRow
from orchestrator.history.database.database import Database
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.leases import Leases
from orchestrator.history.run_store import RunStore
from orchestrator.identity import fingerprint_of
from orchestrator.liveness.liveness import Liveness
from orchestrator.retention.leftovers import Leftovers
from orchestrator.retention.pins import pin, unpin
from orchestrator.shards import ShardOutcome
from orchestrator.store.layout import checkpoint_site, shard_site
from orchestrator.store.store import open_store
from orchestrator.store.store_identity import ExpectedStore, check_store, establish

PAYLOAD = {"kind": "train"}
TRAINING, SHARD = ArtifactKey("train", fingerprint_of(dict(PAYLOAD))), ArtifactKey("curate", "cd" * 32)
ATTEMPT = AttemptId.of("run-1", "train", epoch=1, number=1)
LATER_S, AGE_S = 4e9, 86400.0


class Desk:
    """A store on disk and a database."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, open_store(folder / "store")
        self.artifacts = ArtifactStore(self.store, folder / "cache")
        self.ledger = ShardLedger(self.store, folder / "cache")
        self.database = Database(str(folder / "index.db"))
        self.history, self.leases = RunStore(self.database), Leases(self.database)
        self.live: set[str] = set()
        self.leftovers = Leftovers(
            artifacts=self.artifacts,
            liveness=Liveness(store=self.store, database=self.database, leases=self.leases, jobs=None),
            is_live=lambda attempt: attempt in self.live,
        )

    def found(self) -> Counter[str]:
        return Counter(item.reason for item in self.leftovers.find(now_s=LATER_S, older_than_s=AGE_S))

    def delete(self) -> int:
        return self.leftovers.delete(self.leftovers.find(now_s=LATER_S, older_than_s=AGE_S)).items

    def start(self, run_id: str, key: ArtifactKey, *, digest: str = "d") -> int:
        row = StageRow(stage_id="train", stage_kind=key.stage_kind, fingerprint=key.fingerprint, action="run")
        self.history.create_run(run_id, recipe_name="nightly", plan_digest=digest * 64, stages=[row])
        lease = self.leases.acquire(f"run:{run_id}")
        assert lease
        return self.history.begin_epoch(run_id, lease)

    def end(self, run_id: str, epoch: int) -> None:
        self.history.transition_run(run_id, RunState.RUNNING, RunState.FAILED, epoch=epoch)

    def checkpoints(self, *steps: int) -> StoredCheckpoints:
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        (state / "weights").write_bytes(b"weights")
        made = StoredCheckpoints(store=self.store, cache=self.artifacts.cache, key=TRAINING, attempt=ATTEMPT)
        for step in steps:
            made.commit(step, state, {})
        return made

    def shard(self) -> None:
        output = self.ledger.new_output(SHARD, owner="run-1-curate-1-1")
        (output.data / "part").write_bytes(b"part")
        self.ledger.record(output, ShardOutcome(rows=1), provenance={})


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    with closing(desk.database), closing(desk.history):
        yield desk


def test_young_things_stay(desk: Desk) -> None:
    desk.checkpoints(1)
    desk.shard()
    newest_s = max(item.modified_s for top in ("artifacts", "shards") for item in desk.store.list(top))
    assert desk.leftovers.find(now_s=newest_s + AGE_S - 10, older_than_s=AGE_S) == []
    assert len(desk.leftovers.find(now_s=newest_s + AGE_S + 10, older_than_s=AGE_S)) == 2


def test_an_abandoned_training_is_deleted_with_all_its_checkpoints(desk: Desk) -> None:
    made = desk.checkpoints(1, 2)
    assert desk.found() == {"training": 2}
    assert desk.delete() == 2
    assert made.latest() is None
    kept = [item.key for item in desk.store.list("artifacts") if "/data/" in item.key or "MANIFEST" in item.key]
    assert kept == []
    assert desk.found() == {}


def test_a_training_stays_while_a_run_a_pin_or_an_attempt_may_continue_it(desk: Desk) -> None:
    desk.checkpoints(1)
    pin(desk.store, TRAINING)
    assert desk.found() == {}
    unpin(desk.store, TRAINING)
    epoch = desk.start("run-1", TRAINING)
    assert desk.found() == {}
    desk.end("run-1", epoch)
    assert desk.found() == {}  # the newest run of its recipe can be resumed
    desk.start("run-2", SHARD)
    assert desk.found() == {"training": 1}
    desk.artifacts.new_attempt(TRAINING, "run-1-train-1-1")
    desk.live.add("run-1-train-1-1")
    assert desk.found() == {}


def test_an_attempt_that_begins_after_the_search_keeps_the_training(desk: Desk) -> None:
    made = desk.checkpoints(1)
    found = desk.leftovers.find(now_s=LATER_S, older_than_s=AGE_S)
    folder = desk.artifacts.new_attempt(TRAINING, "run-2-train-1-1")
    assert desk.leftovers.delete(found).kept == (found[0].key,)
    assert made.latest() is not None
    desk.artifacts.commit(folder, ManifestDraft(kind="model@1", payload=dict(PAYLOAD), metrics={}), epoch=1)
    assert desk.leftovers.delete(found).items == 0  # now it is garbage of a finished stage, which has its own rule
    assert desk.found() == {}
    assert checkpoint_site(TRAINING, 1).key == TRAINING


def test_a_shard_of_no_artifact_is_deleted_unless_it_is_in_use(desk: Desk) -> None:
    desk.shard()
    user = AttemptId.of("run-2", "curate", epoch=1, number=1)
    key = ArtifactKey("curate", "ef" * 32)
    folder = desk.artifacts.new_attempt(key, user.name)
    found = desk.leftovers.find(now_s=LATER_S, older_than_s=AGE_S)
    assert [item.reason for item in found] == ["shard"]
    record_use(desk.store, user, key, shards=[SHARD.fingerprint])
    assert desk.found() == {}
    assert desk.leftovers.delete(found).items == 0
    assert desk.ledger.find(SHARD) is not None
    desk.artifacts.abort(folder, reason="stopped")
    assert desk.found() == {"shard": 1, "use": 1}
    desk.live.add("run-1-curate-1-1")
    assert desk.found() == {"use": 1}
    desk.live.clear()
    assert desk.delete() == 2
    assert desk.ledger.find(SHARD) is None
    assert not list((desk.folder / "store" / shard_site(SHARD).attempts).rglob("part"))


def test_shards_stay_where_an_artifact_contains_them_or_one_cannot_be_read(desk: Desk) -> None:
    desk.shard()
    payload = {"kind": "curate"}
    folder = desk.artifacts.new_attempt(ArtifactKey("curate", fingerprint_of(dict(payload))), "run-1-curate-1-1")
    draft = ManifestDraft(kind="dataset@1", payload=dict(payload), metrics={})
    committed = desk.artifacts.commit(folder, replace(draft, shards=(SHARD.fingerprint,)), epoch=1)
    assert desk.found() == {}
    manifest = desk.folder / "store" / folder.site.manifest_key("run-1-curate-1-1")
    manifest.chmod(0o644)
    manifest.write_bytes(b"{")
    assert desk.found() == {}
    assert committed.manifest.shards == (SHARD.fingerprint,)


def test_old_plans_go_once_no_run_can_be_resumed_with_them_and_nothing_of_them_exists(desk: Desk) -> None:
    records = RunRecords(desk.store)
    for digest in "abc":
        records.put_plan(digest * 64, {"plan": digest})
    desk.end("run-1", desk.start("run-1", TRAINING, digest="a"))
    desk.end("run-2", desk.start("run-2", TRAINING, digest="b"))  # the newest
    assert desk.found() == {"plan": 2}  # `c` is of no run
    folder = desk.artifacts.new_attempt(TRAINING, ATTEMPT.name)
    draft = ManifestDraft(kind="model@1", payload=dict(PAYLOAD), metrics={}, provenance={"run": "run-1"})
    desk.artifacts.commit(folder, draft, epoch=1)
    assert desk.delete() == 1
    assert [records.plan(digest * 64) is not None for digest in "abc"] == [True, True, False]


def test_mail_of_jobs_goes_after_their_attempts(desk: Desk) -> None:
    epoch = desk.start("run-1", TRAINING)
    attempt = AttemptId.of("run-1", "train", epoch=epoch, number=1)
    for name in (attempt.name, "nobody-knows-1-1"):
        for part in ("JOB.json", "telemetry/000000001.json"):
            desk.store.put_new(f"runs/run-1/jobs/{name}/{part}", b"{}")
    desk.store.put_new("runs/run-1/logs/train.log", b"log")
    desk.history.start_attempt(
        AttemptIntent(attempt=attempt, key=TRAINING, stage_version=1, config={}, inputs=(), fields={})
    )
    assert desk.found() == {}
    desk.history.transition_attempt(
        attempt.name, AttemptState.INTENT, AttemptState.FAILED, epoch=epoch, fields={"failure_class": "USER_CODE"}
    )
    desk.live.add(attempt.name)
    assert desk.found() == {}
    desk.live.clear()
    assert desk.found() == {"mail": 2}
    assert desk.delete() == 2
    assert [item.key.split("/")[3] for item in desk.store.list("runs/run-1/jobs")] == ["nobody-knows-1-1"] * 2


def test_the_markers_of_a_store_are_no_leftovers(desk: Desk) -> None:
    identity = establish(desk.store, ["train", "curate"])
    desk.checkpoints(1)
    desk.shard()
    record_use(desk.store, ATTEMPT, TRAINING)
    assert desk.delete() >= 2
    check_store(desk.store, ExpectedStore(store_id=identity.store_id))
