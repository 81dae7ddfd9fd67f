"""What an attempt that was aborted can still do to the checkpoints, artifact and shards of the one that took over."""

import logging
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts import attempt_guard
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.stage_records import newest_checkpoint_step
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import CorruptArtifactError, FencedError, StoreError, UnreachableStoreError
from orchestrator.identity import fingerprint_of
from orchestrator.retention.garbage import delete_garbage, find_garbage
from orchestrator.store.fences import read_fence
from orchestrator.store.layout import artifact_site, checkpoint_site
from orchestrator.store.store import Store, open_store, record_bytes
from orchestrator.store.store_identity import establish
from tests.orchestrator.store.interleaving import Crash, Scheduler, SteppedStore

PAYLOAD = {"kind": "train"}
KEY = ArtifactKey("train", str(fingerprint_of(PAYLOAD)))


def attempt(epoch: int, run: str = "run") -> AttemptId:
    return AttemptId.of(run, "train", epoch=epoch, number=1)


def checkpoints(store: Store, tmp_path: Path, epoch: int, run: str = "run") -> StoredCheckpoints:
    return StoredCheckpoints(store=store, cache=tmp_path / f"cache-{epoch}", key=KEY, attempt=attempt(epoch, run))


def begin(store: Store, tmp_path: Path, epoch: int, run: str = "run") -> StoredCheckpoints:
    """A new attempt that has claimed its name and taken over."""
    who = attempt(epoch, run)
    ArtifactStore(store, tmp_path / f"cache-{epoch}").new_attempt(KEY, who.name, attempt=who)
    found = checkpoints(store, tmp_path, epoch, run)
    found.take_over()
    return found


def state(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "states" / text
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text(text)
    return folder


def save(found: StoredCheckpoints, tmp_path: Path, *steps: int, way: str = "") -> None:
    for step in steps:
        found.commit(step, state(tmp_path, f"{way or found.attempt.epoch}:{step}"), {"step": step})


def content(found: StoredCheckpoints) -> dict[int, str]:
    """The weights of every checkpoint that counts, by step."""
    texts = {}
    for step, head in found._heads():
        if head.commit:
            texts[step] = (found._read(step, head.commit).path / "weights").read_text()
    return texts


def collect(store: Store, live: str = "") -> None:
    """What `illume gc` does when every leftover is old enough and only the attempt `live` is alive."""
    garbage = find_garbage(store, now_s=4e9, is_live=lambda name: name == live)
    delete_garbage(store, garbage, is_live=lambda name: name == live)


@dataclass
class Interrupted:
    """A store in which `meanwhile` happens once, right before the first write of a key with an ending."""

    inner: Store
    ending: str
    meanwhile: Callable[[], None]
    happened: bool = field(default=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def put_new(self, key: str, data: bytes) -> bool:
        if key.endswith(self.ending) and not self.happened:
            self.happened = True
            self.meanwhile()
        return self.inner.put_new(key, data)


def test_an_aborted_attempt_commits_retracts_and_prunes_nothing(store: Store, tmp_path: Path) -> None:
    zombie = begin(store, tmp_path, 1)
    save(zombie, tmp_path, 100)
    live = begin(store, tmp_path, 2)
    save(live, tmp_path, 200, 300, 400)
    actions: list[Callable[[], object]] = [
        lambda: save(zombie, tmp_path, 500),
        lambda: save(zombie, tmp_path, 400),
        lambda: zombie.retract_after(100),
        lambda: zombie.retract_after(400),  # though nothing is later
        lambda: zombie.prune(1),
        lambda: zombie.prune(9),  # though nothing is to be pruned
        lambda: zombie.take_over(),
    ]
    before = {item.key for item in store.list("artifacts")}
    for action in actions:
        with pytest.raises(FencedError, match="attempt 'run-train-1-1' was aborted"):
            action()
    assert {item.key for item in store.list("artifacts")} == before
    assert content(live) == {400: "2:400", 300: "2:300", 200: "2:200", 100: "1:100"}
    save(live, tmp_path, 500)
    assert content(live)[500] == "2:500"


def test_a_writer_that_decides_after_another_one_leaves_no_files(memory_store: Any, tmp_path: Path) -> None:
    other = checkpoints(memory_store, tmp_path, 2)
    slow: Any = Interrupted(memory_store, "/OUTCOME", lambda: save(other, tmp_path, 100))
    save(checkpoints(slow, tmp_path, 1), tmp_path, 100)
    assert content(other) == {100: "2:100"}
    assert len([key for key in memory_store.objects if key.endswith("/weights")]) == 1


def test_what_an_attempt_retracted_before_it_was_aborted_stays_retracted(store: Store, tmp_path: Path) -> None:
    first = begin(store, tmp_path, 1)
    save(first, tmp_path, 100, 200)
    first.retract_after(100)
    live = begin(store, tmp_path, 2)
    assert content(live) == {100: "1:100"}
    save(live, tmp_path, 200)
    assert content(live) == {200: "2:200", 100: "1:100"}


def test_an_aborted_attempt_puts_no_artifact_and_retracts_none(store: Store, tmp_path: Path) -> None:
    artifacts = ArtifactStore(store, tmp_path / "cache")
    zombie = artifacts.new_attempt(KEY, "zombie")
    (zombie.data / "weights").write_text("old")
    draft = ManifestDraft(kind="model@1", payload=dict(PAYLOAD), metrics={})
    assert artifacts.abort_attempt(KEY, "zombie", reason="node lost")
    live = artifacts.new_attempt(KEY, "live")
    (live.data / "weights").write_text("new")
    artifacts.commit(live, draft, epoch=2)
    store.delete(f"{artifact_site(KEY).data_key('live')}/weights")  # as a listing that lags would show it
    before = {item.key for item in store.list("artifacts")}
    with pytest.raises(FencedError, match="node lost"):
        artifacts.commit(zombie, draft, epoch=1)
    assert {item.key for item in store.list("artifacts")} == before


@pytest.mark.parametrize("ending", ["/MANIFEST.json", "/OUTCOME"])
def test_a_commit_that_had_passed_the_guard_does_not_count_once_another_took_over(
    store: Store, tmp_path: Path, ending: str
) -> None:
    zombie = begin(store, tmp_path, 1)
    save(zombie, tmp_path, 100)
    live: list[StoredCheckpoints] = []

    def take_over() -> None:
        live.append(begin(store, tmp_path, 2))
        assert content(live[0]) == {100: "1:100"}

    frozen = StoredCheckpoints(
        store=Interrupted(store, ending, take_over),  # type: ignore[arg-type]  # a proxy
        cache=zombie.cache,
        key=KEY,
        attempt=zombie.attempt,
        ready={zombie.attempt.name},
    )
    is_refused = False
    try:
        save(frozen, tmp_path, 500)
    except FencedError:
        is_refused = True
    assert is_refused == (ending == "/MANIFEST.json")  # before the second look of the guard
    assert content(live[0]) == {100: "1:100"}
    assert newest_checkpoint_step(store, KEY) == 100
    save(live[0], tmp_path, 500)
    assert content(live[0]) == {500: "2:500", 100: "1:100"}
    collect(store, live="run-train-2-1")
    assert content(begin(store, tmp_path, 3)) == {500: "2:500", 100: "1:100"}  # whatever the collector deleted


def test_a_retraction_that_had_passed_the_guard_does_not_count_and_deletes_nothing(
    store: Store, tmp_path: Path
) -> None:
    zombie = begin(store, tmp_path, 1)
    save(zombie, tmp_path, 100, 200)
    live: list[StoredCheckpoints] = []
    frozen = StoredCheckpoints(
        store=Interrupted(store, ".RETRACTED", lambda: live.append(begin(store, tmp_path, 2))),  # type: ignore[arg-type]  # a proxy
        cache=zombie.cache,
        key=KEY,
        attempt=zombie.attempt,
        ready={zombie.attempt.name},
    )
    with pytest.raises(FencedError):
        frozen.retract_after(100)
    assert content(live[0]) == {200: "1:200", 100: "1:100"}
    collect(store, live=live[0].attempt.name)
    assert content(live[0]) == {200: "1:200", 100: "1:100"}
    live[0].retract_after(100)  # the one that is entitled to can still do it
    assert content(live[0]) == {100: "1:100"}


def test_a_commit_that_a_crash_interrupted_counts_for_the_next_attempt(store: Store, tmp_path: Path) -> None:
    first = begin(store, tmp_path, 1)

    def crash() -> None:
        raise Crash

    dying = StoredCheckpoints(
        store=Interrupted(store, "/COMMIT", crash),  # type: ignore[arg-type]  # a proxy
        cache=first.cache,
        key=KEY,
        attempt=first.attempt,
    )
    with pytest.raises(Crash):
        save(dying, tmp_path, 7)
    assert content(begin(store, tmp_path, 2)) == {7: "1:7"}


def test_a_crash_between_abort_and_fence_is_completed_by_the_next_attempt(store: Store, tmp_path: Path) -> None:
    zombie = begin(store, tmp_path, 1)
    save(zombie, tmp_path, 10)
    artifacts = ArtifactStore(store, tmp_path / "cache-2")
    artifacts.new_attempt(KEY, attempt(2).name, attempt=attempt(2))

    def crash() -> None:
        raise Crash

    dying = checkpoints(Interrupted(store, "/FENCE", crash), tmp_path, 2)  # type: ignore[arg-type]  # a proxy
    with pytest.raises(Crash):
        dying.take_over()
    live = begin(store, tmp_path, 3)
    for name in ("run-train-1-1", "run-train-2-1"):
        assert read_fence(store, artifact_site(KEY).attempts, name) is not None
    assert content(live) == {10: "1:10"}


def test_an_older_epoch_does_not_take_over_from_a_newer_one(store: Store, tmp_path: Path) -> None:
    old, new = attempt(1), attempt(2)
    artifacts = ArtifactStore(store, tmp_path / "cache")
    for who in (old, new):
        artifacts.new_attempt(KEY, who.name, attempt=who)
    with pytest.raises(FencedError, match="epoch 2 of run run has started attempt 'run-train-2-1'"):
        checkpoints(store, tmp_path, 1).take_over()
    checkpoints(store, tmp_path, 2).take_over()


def test_claims_of_other_runs_and_odd_ones_hold_nobody_back(store: Store, tmp_path: Path) -> None:
    artifacts = ArtifactStore(store, tmp_path / "cache")
    other = AttemptId.of("other", "train", epoch=9, number=1)
    for who in (other, attempt(1)):  # listed in this order
        artifacts.new_attempt(KEY, who.name, attempt=who)
    odd = record_bytes({"format": 1, "run": "run", "epoch": "9"})
    store.put_new(artifact_site(KEY).claim_key("run-train-0-1"), odd)
    checkpoints(store, tmp_path, 1).take_over()
    artifacts.new_attempt(KEY, attempt(2).name, attempt=attempt(2))
    with pytest.raises(FencedError, match="epoch 2 of run run has started"):
        checkpoints(store, tmp_path, 1).take_over()


def test_an_attempt_that_committed_its_artifact_needs_no_fence(store: Store, tmp_path: Path) -> None:
    artifacts = ArtifactStore(store, tmp_path / "cache")
    made = artifacts.new_attempt(KEY, attempt(1).name, attempt=attempt(1))
    (made.data / "weights").write_text("whole")
    artifacts.commit(made, ManifestDraft(kind="model@1", payload=dict(PAYLOAD), metrics={}), epoch=1)
    begin(store, tmp_path, 2)
    assert read_fence(store, artifact_site(KEY).attempts, attempt(1).name) is None


def test_what_a_driver_aborted_is_fenced_by_the_first_look_of_the_next_attempt(store: Store, tmp_path: Path) -> None:
    zombie = begin(store, tmp_path, 1)
    save(zombie, tmp_path, 10)
    assert ArtifactStore(store, tmp_path / "cache").abort_attempt(KEY, zombie.attempt.name, reason="lost")
    assert checkpoints(store, tmp_path, 2).latest() is not None
    assert read_fence(store, artifact_site(KEY).attempts, zombie.attempt.name) is not None


def test_an_attempt_id_is_used_once_on_every_machine(store: Store, tmp_path: Path) -> None:
    one, two = ArtifactStore(store, tmp_path / "one"), ArtifactStore(store, tmp_path / "two")
    made = one.new_attempt(KEY, "run-train-5-1")
    with pytest.raises(StoreError, match="expected an attempt id that was never used"):
        two.new_attempt(KEY, "run-train-5-1")
    one.abort(made, reason="failed")
    with pytest.raises(StoreError):
        two.new_attempt(KEY, "run-train-5-1")
    collect(store)
    with pytest.raises(StoreError):  # its decision outlives its files
        two.new_attempt(KEY, "run-train-5-1")


def test_an_attempt_that_was_aborted_before_it_began_does_not_begin(store: Store, tmp_path: Path) -> None:
    artifacts = ArtifactStore(store, tmp_path / "cache")
    artifacts.abort_attempt(KEY, "run-train-1-1", reason="its job is not known to the cluster")
    with pytest.raises(FencedError, match="its job is not known"):
        artifacts.new_attempt(KEY, "run-train-1-1")


def test_a_store_without_claims_and_fences_is_continued(store: Store, tmp_path: Path) -> None:
    """As versions before these records left it: the checkpoints count, and their attempt is aborted."""
    save(checkpoints(store, tmp_path, 1), tmp_path, 10, 20)
    live = begin(store, tmp_path, 2)
    assert content(live) == {20: "1:20", 10: "1:10"}
    with pytest.raises(FencedError):
        save(checkpoints(store, tmp_path, 1), tmp_path, 30)


def test_a_checkpoint_of_an_unknown_attempt_is_used_and_reported_with_its_file(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(checkpoints(store, tmp_path, 99), tmp_path, 10)
    with caplog.at_level(logging.WARNING):
        latest = checkpoints(store, tmp_path, 1).latest()
    assert latest is not None
    assert latest.step == 10
    lines = [record.getMessage() for record in caplog.records]
    key = checkpoint_site(KEY, 10).commit_key(0)
    assert [line for line in lines if key in line and "'run-train-99-1', which is not known" in line]
    caplog.clear()
    known = begin(store, tmp_path, 2)
    save(known, tmp_path, 20)
    with caplog.at_level(logging.WARNING):
        newest = checkpoints(store, tmp_path, 3).latest()
    assert newest is not None
    assert newest.step == 20
    assert "not known here" not in caplog.text


def test_a_decision_that_cannot_be_read_ends_the_attempt_and_names_the_file(store: Store, tmp_path: Path) -> None:
    live = begin(store, tmp_path, 1)
    store.put_new(artifact_site(KEY).outcome_key(live.attempt.name), b"{")
    with pytest.raises(FencedError, match=r"attempts/run-train-1-1/OUTCOME"):
        save(live, tmp_path, 1)


def test_exactly_the_chosen_checkpoint_is_opened(store: Store, tmp_path: Path) -> None:
    live = begin(store, tmp_path, 1)
    save(live, tmp_path, 1, 2)
    chosen = live.latest()
    assert chosen is not None
    rank = StoredCheckpoints(store=store, cache=tmp_path / "rank", key=KEY, attempt=live.attempt, open_patience_s=0.01)
    assert (rank.open(2, chosen.digest).path / "weights").read_text() == "1:2"
    for step, digest in ((1, chosen.digest), (2, "0" * 64), (3, chosen.digest)):
        with pytest.raises(CorruptArtifactError, match=f"checkpoint of step {step} .*rank 0 chose"):
            rank.open(step, digest)
    with pytest.raises(CorruptArtifactError, match="found none, expected the manifest"):
        rank.open(3, chosen.digest)


def test_a_checkpoint_that_is_not_seen_yet_is_waited_for(
    memory_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = begin(memory_store, tmp_path, 1)
    save(live, tmp_path, 1)
    chosen = live.latest()
    assert chosen is not None
    key = checkpoint_site(KEY, 1).commit_key(0)
    record = memory_store.objects.pop(key)  # as a listing that lags
    monkeypatch.setattr("time.sleep", lambda _seconds: memory_store.objects.setdefault(key, record))
    rank = checkpoints(memory_store, tmp_path, 1)
    assert replace(rank, open_patience_s=60.0).open(1, chosen.digest).step == 1


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),  # of the order in which the actors take turns
    dies_at=st.one_of(st.none(), st.integers(0, 60)),
    keep=st.integers(1, 2),
    collects=st.booleans(),
)
def test_no_interleaving_with_an_aborted_attempt_changes_what_the_live_one_continues_from(
    memory_store: Any, tmp_path: Path, seed: int, dies_at: int | None, keep: int, collects: bool
) -> None:
    """A zombie commits, prunes and retracts at any speed while another attempt takes over and trains another way."""
    memory_store.objects.clear()
    for folder in ("cache-1", "cache-2", "states"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    scheduler = Scheduler(random=random.Random(seed))
    save(begin(memory_store, tmp_path, 1), tmp_path, 1)
    started_from: list[tuple[int, str]] = []

    def zombie() -> None:
        store: Any = SteppedStore(memory_store, scheduler, "zombie", 10**9 if dies_at is None else dies_at)
        try:
            found = checkpoints(store, tmp_path, 1)
            for step in (2, 3, 4):
                save(found, tmp_path, step)
                found.prune(keep)
            found.retract_after(2)
            save(found, tmp_path, 3, 4, way="1b")
        except (Crash, FencedError):
            return

    def live() -> None:
        store: Any = SteppedStore(memory_store, scheduler, "live")
        found = begin(store, tmp_path, 2)
        latest = found.latest()
        if latest is not None:
            started_from.append((latest.step, (latest.path / "weights").read_text()))
        for step in range(latest.step + 1 if latest else 1, 7):
            save(found, tmp_path, step)

    def collector() -> None:
        store: Any = SteppedStore(memory_store, scheduler, "collector")
        garbage = find_garbage(store, now_s=4e9, is_live=lambda name: True)
        delete_garbage(store, garbage, is_live=lambda name: True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt_guard, "request_threads", lambda *, is_local: 1)  # an actor makes one call at a time
        scheduler.run({"zombie": zombie, "live": live} | ({"collector": collector} if collects else {}))
    step, text = started_from[0] if started_from else (0, None)  # nothing: it pruned, then went back
    after = content(checkpoints(memory_store, tmp_path / "fresh", 2))
    assert after.get(step) == text
    assert {later: after.get(later) for later in range(step + 1, 7)} == {
        later: f"2:{later}" for later in range(step + 1, 7)
    }


def test_a_process_on_a_node_without_the_store_s_mount_finds_no_checkpoint_and_writes_none(tmp_path: Path) -> None:
    """It sees an empty folder of the same name, in which a training would begin at step 0."""
    store = open_store(tmp_path / "store")
    begun = replace(begin(store, tmp_path, 1), store_id=establish(store).store_id)
    begun.commit(1, state(tmp_path, "one"), {"step": 1})
    (tmp_path / "store").rename(tmp_path / "on-another-node")
    (tmp_path / "store").mkdir()
    on_node = replace(begun, store=open_store(tmp_path / "store"), cache=tmp_path / "cache-of-node")
    with pytest.raises(UnreachableStoreError, match="Mount the folder on every node"):
        on_node.latest()
    with pytest.raises(UnreachableStoreError, match="Mount the folder on every node"):
        on_node.commit(2, state(tmp_path, "two"), {"step": 2})
    assert not any(path.is_file() for path in (tmp_path / "store").rglob("*"))
