"""The commit protocol with kills at every step and with interleavings drawn by hypothesis."""

import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.artifact import JSON, ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.attempt_id import AttemptId
from orchestrator.backends.local_store import LocalStore
from orchestrator.backends.objects import Digest
from orchestrator.errors import CorruptArtifactError, FencedError, StoreError
from orchestrator.identity import fingerprint_of
from orchestrator.retention.garbage import delete_garbage, find_garbage
from orchestrator.shards import ShardOutcome
from orchestrator.store.commits import (
    Commit,
    Decided,
    Outcome,
    abort,
    commit_all,
    commit_attempt,
    delete_attempt,
    head,
    is_retracted,
    read_commit,
    read_outcome,
    retract,
    retractions,
    roll_forward,
)
from orchestrator.store.fences import Fences, put_fence
from orchestrator.store.layout import artifact_site, checkpoint_site, shard_site
from orchestrator.store.store import Store
from tests.orchestrator.conftest import MemoryStore
from tests.orchestrator.store.interleaving import Crash, Scheduler, SteppedStore
from tests.orchestrator.store.priced_store import PricedStore

PAYLOAD = {"kind": "curate"}
FINGERPRINT = fingerprint_of(PAYLOAD)
SHARD = "cd" * 32
NOBODY_LIVES = lambda _attempt: False  # noqa: E731 - the shortest way to say it


def work(store: Store, cache: Path, attempt_id: str) -> str:
    """Do what a stage does: a shard, a checkpoint that replaces an older one, an artifact with own and linked files."""
    ledger, artifacts = ShardLedger(store, cache), ArtifactStore(store, cache)
    stored = ledger.find(ArtifactKey("curate", SHARD))
    if stored is None:
        output = ledger.new_output(ArtifactKey("curate", SHARD), owner=attempt_id)
        (output.data / "part.tar").write_bytes(b"shard")
        stored = ledger.record(output, ShardOutcome(rows=1), provenance={"attempt": attempt_id})
    checkpoints = StoredCheckpoints(
        store=store,
        cache=cache,
        key=ArtifactKey("curate", FINGERPRINT),
        attempt=AttemptId(run_id="run", stage_id="stage", epoch=1, name=attempt_id),
    )
    latest = checkpoints.latest()
    for step in range(latest.step + 1 if latest else 1, 3):
        folder = cache / "checkpoint" / attempt_id / str(step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_bytes(b"weights of step %d" % step)
        checkpoints.commit(step, folder, {"step": step})
        checkpoints.prune(1)
    attempt = artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), attempt_id)
    (attempt.data / "own").write_bytes(b"own")
    attempt.link(stored.key_of("part.tar"), "shards/part.tar", stored.files[0])
    draft = ManifestDraft(kind="dataset@1", payload=dict(PAYLOAD), metrics={"rows": 1.0}, shards=(SHARD,))
    return artifacts.commit(attempt, draft, epoch=1).manifest_sha256


@contextmanager
def killed_at(number: int) -> Iterator[None]:
    """Kill this process with SIGKILL before its n-th operation that changes the disk durably."""
    done = 0

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal done
            done += 1
            if done > number:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **keywords)

        return call

    for name in ("fsync", "link", "unlink", "mkdir", "rmdir", "fchmod"):
        setattr(os, name, counted(getattr(os, name)))
    yield


def run_killed(root: Path, number: int) -> bool:
    """Do the work in a child process that is killed; True if it finished first."""
    child = os.fork()
    if child == 0:
        with killed_at(number):
            work(LocalStore(root / "store"), root / "cache", "killed")
            os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def truth(store: Store) -> dict[str, bytes]:
    """All commit and shard records, which must never change."""
    keys = [item.key for top in ("artifacts", "shards") for item in store.list(top)]
    records = [key for key in keys if key.endswith(("/COMMIT", f"{SHARD}.json"))]
    return {key: store.get(key) or b"" for key in records}


def files_of(artifacts: ArtifactStore) -> dict[str, str]:
    manifest = artifacts.find(ArtifactKey("curate", FINGERPRINT))
    assert manifest is not None
    return {file.path: file.sha256 for file in manifest.files}


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_step_loses_nothing_committed_and_a_second_run_completes(tmp_path: Path, stride: int) -> None:
    work(LocalStore(tmp_path / "calm/store"), tmp_path / "calm/cache", "calm")
    undisturbed = files_of(ArtifactStore(LocalStore(tmp_path / "calm/store"), tmp_path / "calm/cache"))
    for number in range(0, 1000, stride):
        root = tmp_path / f"kill-{number}"
        finished = run_killed(root, number)
        store, cache = LocalStore(root / "store"), root / "cache"
        artifacts = ArtifactStore(store, cache)
        before = truth(store)
        found = artifacts.find(ArtifactKey("curate", FINGERPRINT))
        assert artifacts.verify(ArtifactKey("curate", FINGERPRINT)) == []
        work(store, cache, "second")
        assert {key: truth(store)[key] for key in before} == before
        assert files_of(artifacts) == undisturbed
        if found is not None:
            assert artifacts.find(ArtifactKey("curate", FINGERPRINT)) == found
        check_collection(store, artifacts)
        shutil.rmtree(root)
        if finished:
            assert number > 40  # the work has that many operations that change the disk
            return
    pytest.fail("the work never got to its end")


def collect_all(store: Store) -> None:
    """Do what `illume gc` does when every leftover is old enough and no lease is held."""
    delete_garbage(store, find_garbage(store, now_s=4e9, is_live=NOBODY_LIVES), is_live=NOBODY_LIVES)


def check_collection(store: Store, artifacts: ArtifactStore) -> None:
    """Check that garbage collection leaves exactly the committed files, undamaged."""
    collect_all(store)
    assert find_garbage(store, now_s=4e9, is_live=NOBODY_LIVES) == []
    assert artifacts.verify(ArtifactKey("curate", FINGERPRINT)) == []
    assert ShardLedger(store, artifacts.cache).verify(ArtifactKey("curate", SHARD)) == []
    data = [item.key for item in store.list("artifacts") if "/data/" in item.key]
    assert sorted(key.partition("/data/")[2] for key in data) == ["own", "shards/part.tar"]
    assert list((store.local("") or Path()).glob(".tmp/*")) == []


# ---- interleavings ----


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),  # of the order in which the actors take turns
    dies_at=st.lists(st.one_of(st.none(), st.integers(0, 30)), min_size=3, max_size=3),
    collectors=st.integers(1, 2),
    retractor=st.booleans(),
)
def test_no_interleaving_of_writers_collectors_and_crashes_loses_data(
    memory_store: Any, tmp_path: Path, seed: int, dies_at: list[int | None], collectors: int, retractor: bool
) -> None:
    memory_store.objects.clear()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    scheduler = Scheduler(random=random.Random(seed))
    got: dict[str, str] = {}

    def writer(number: int) -> Callable[[], None]:
        name, limit = f"writer-{number}", dies_at[number]
        store = SteppedStore(memory_store, scheduler, name, 10**9 if limit is None else limit)
        artifacts = ArtifactStore(store, tmp_path / "cache" / name)  # type: ignore[arg-type]  # a proxy

        def body() -> None:
            draft = ManifestDraft(kind="dataset@1", payload=dict(PAYLOAD), metrics={})
            try:
                attempt = artifacts.new_attempt(ArtifactKey("curate", FINGERPRINT), name)
                (attempt.data / "file").write_bytes(name.encode())
                got[name] = artifacts.commit(attempt, draft, epoch=number).manifest_sha256
            except (Crash, StoreError):
                return  # dead, or told to try again

        return body

    def collector(name: str) -> Callable[[], None]:
        store: Any = SteppedStore(memory_store, scheduler, name)

        def body() -> None:
            while len(scheduler.alive) > 1 + collectors:  # as long as others work, and once more
                collect_all(store)
            collect_all(store)

        return body

    def retract() -> None:
        store: Any = SteppedStore(memory_store, scheduler, "retractor")
        ArtifactStore(store, tmp_path / "cache/retractor").retract(ArtifactKey("curate", FINGERPRINT), reason="must go")

    actors = {f"writer-{number}": writer(number) for number in range(3)}
    actors |= {f"collector-{number}": collector(f"collector-{number}") for number in range(collectors)}
    scheduler.run(actors | ({"retractor": retract} if retractor else {}))

    reader = ArtifactStore(memory_store, tmp_path / "cache" / "reader")
    found = reader.stored(ArtifactKey("curate", FINGERPRINT))
    assert reader.verify(ArtifactKey("curate", FINGERPRINT)) == []
    assert (head(memory_store, artifact_site(ArtifactKey("curate", FINGERPRINT))).commit is None) == (found is None)
    if not retractor:
        assert len(set(got.values())) <= 1
        assert not got or (found is not None and set(got.values()) == {found.manifest_sha256})


def test_a_group_decides_with_the_bytes_of_a_single_commit(store: Store) -> None:
    sites = [shard_site(ArtifactKey("curate", f"{number:02}" * 32)) for number in range(5)]
    body: dict[str, JSON] = {"files": [], "text": "ü \u2028 \\", "password": "hush"}
    commit_all(store, [Decided(site=site, generation=0, attempt="a", epoch=1, body=body) for site in sites[:4]])
    commit_attempt(store, sites[4], generation=0, attempt="a", epoch=1, body=body)
    stamp = re.compile(rb'"nonce":"[0-9a-f]{32}"|"committed_s":[0-9.]+')
    for keys in ([site.outcome_key("a") for site in sites], [site.commit_key(0) for site in sites]):
        (form,) = {stamp.sub(b"", store.get(key) or b"") for key in keys}
        assert b'"attempt":"a"' in form
        assert b"hush" not in form


@dataclass
class MortalStore(MemoryStore):
    """Its user dies at a call that writes; the calls that run at the same time die with it."""

    lives: int = 10**9

    def put_new(self, key: str, data: bytes) -> bool:
        self.lives -= 1
        if self.lives < 0:
            raise Crash
        return super().put_new(key, data)

    def upload(self, path: Path, key: str) -> Digest:
        self.lives -= 1
        if self.lives < 0:
            raise Crash
        return super().upload(path, key)


@pytest.mark.parametrize("lives", range(10))
def test_a_group_that_was_killed_anywhere_loses_nothing_that_was_recorded(tmp_path: Path, lives: int) -> None:
    """Three shards of one file each: nine writes. What was decided counts, the rest is made again, once."""
    store = MortalStore(lives=lives)
    ledger = ShardLedger(store, tmp_path)
    names = [f"{number:02}" * 32 for number in range(3)]

    def record_group(owner: str) -> list[StoredShard | Exception]:
        outputs = [ledger.new_output(ArtifactKey("curate", name), owner=owner, in_group=True) for name in names]
        for output in outputs:
            (output.data / "part").write_text(owner)
        return ledger.record_all([(output, ShardOutcome(rows=1)) for output in outputs], provenance={})

    with suppress(Crash):
        record_group("run-1-a-1")
    decided = {key.split("/")[3] for key in store.objects if key.endswith("OUTCOME")}
    store.lives = 10**9
    found = ledger.find_many("curate", names)
    assert found.keys() == decided
    again = record_group("run-1-a-2")
    for name, stored in zip(names, again, strict=True):
        assert isinstance(stored, StoredShard)
        assert stored == ledger.find(ArtifactKey("curate", name)) == found.get(name, stored)
    delete_garbage(store, find_garbage(store, now_s=1.0, is_live=NOBODY_LIVES, older_than_s=0.0), is_live=NOBODY_LIVES)
    assert len([key for key in store.objects if key.endswith("/part")]) == 3
    assert all(ledger.verify(ArtifactKey("curate", name)) == [] for name in names)


SITE = artifact_site(ArtifactKey("curate", FINGERPRINT))


def committed(store: Store, attempt: str, generation: int = 0) -> Commit:
    return commit_attempt(store, SITE, generation=generation, attempt=attempt, epoch=7, body={"by": attempt})


def test_an_attempt_is_decided_once(memory_store: MemoryStore) -> None:
    store = memory_store
    assert read_outcome(store, SITE, "first") is None
    won = committed(store, "first")
    assert (won.attempt, won.epoch, won.record["by"]) == ("first", 7, "first")
    assert won == read_commit(store, SITE, 0) == committed(store, "first")
    assert not abort(store, SITE, "first", reason="too late")
    assert committed(store, "second") == won  # its generation is taken
    assert abort(store, SITE, "third", reason="stopped")
    assert abort(store, SITE, "third", reason="stopped again")
    assert read_outcome(store, SITE, "third") == Outcome(kind="ABORT", reason="stopped")
    with pytest.raises(FencedError, match=r"attempt 'third' was aborted before it could commit \(stopped\)"):
        committed(store, "third", generation=1)
    assert read_commit(store, SITE, 1) is None


@pytest.mark.parametrize(
    "junk",
    [
        b"{",
        b'{"format":1}',
        b'{"format":1,"outcome":"COMMIT","generation":0}',
        b'{"format":1,"outcome":"COMMIT","generation":0,"record":{"format":1}}',
    ],
)
def test_a_decision_that_cannot_be_read_is_neither(memory_store: MemoryStore, junk: bytes) -> None:
    memory_store.put_new(SITE.outcome_key("odd"), junk)
    found = read_outcome(memory_store, SITE, "odd")
    assert found is not None
    assert found.kind == "UNREADABLE"
    assert SITE.outcome_key("odd") in found.reason
    assert not abort(memory_store, SITE, "odd", reason="stopped")
    with pytest.raises(FencedError):
        committed(memory_store, "odd")
    assert roll_forward(memory_store, SITE).commit is None


@dataclass
class BlindStore(MemoryStore):
    """Its reads lag behind: what is there cannot be read yet."""

    def get(self, key: str) -> bytes | None:
        return None


def test_of_a_decision_that_cannot_be_seen_yet_nothing_is_concluded() -> None:
    store = BlindStore()
    assert abort(store, SITE, "third", reason="stopped")
    assert not abort(store, SITE, "third", reason="stopped")
    with pytest.raises(FencedError, match="its record vanished"):
        committed(store, "third")
    store.put_new(SITE.commit_key(0), b"{}")
    with pytest.raises(StoreError, match="COMMIT' was written but cannot be read back"):
        committed(store, "first")


def test_a_record_of_an_older_version_has_no_time(memory_store: MemoryStore) -> None:
    memory_store.put_new(SITE.commit_key(0), b'{"format":1,"attempt":"a","epoch":3}')
    found = read_commit(memory_store, SITE, 0)
    assert found is not None
    assert (found.attempt, found.epoch, found.committed_s) == ("a", 3, 0.0)


def test_a_commit_that_was_cut_off_is_finished_unless_its_place_is_taken(memory_store: MemoryStore) -> None:
    won = committed(memory_store, "first")
    memory_store.delete(SITE.commit_key(0))
    assert abort(memory_store, SITE, "another", reason="stopped")
    assert head(memory_store, SITE).commit is None
    assert roll_forward(memory_store, SITE).commit == won == head(memory_store, SITE).commit
    memory_store.delete(SITE.commit_key(0))
    memory_store.put_new(SITE.commit_key(0), b"{")  # somebody's record, which cannot be read
    found = roll_forward(memory_store, SITE)
    assert (found.generation, found.commit) == (0, None)
    assert SITE.commit_key(0) in found.problem
    with pytest.raises(CorruptArtifactError, match="COMMIT"):
        read_commit(memory_store, SITE, 0)


def test_what_is_retracted_stays_retracted_and_the_next_generation_is_open(memory_store: MemoryStore) -> None:
    with pytest.raises(StoreError, match=r"cannot retract .* found no such commit record"):
        retract(memory_store, SITE, 0, reason="none")
    committed(memory_store, "first")
    assert not is_retracted(memory_store, SITE, 0, no_fences(memory_store))
    for _ in range(2):
        retract(memory_store, SITE, 0, reason="gone")
    assert [owner for _, owner in retractions(memory_store, SITE, 0)] == [""]
    found = head(memory_store, SITE)
    assert (found.generation, found.commit) == (1, None)
    assert committed(memory_store, "first").generation == 0  # told again what it was told
    assert committed(memory_store, "second", generation=1) == head(memory_store, SITE).commit


def no_fences(store: Store) -> Fences:
    return Fences(store, "")


def test_a_retraction_by_an_attempt_counts_unless_it_was_aborted_before(memory_store: MemoryStore) -> None:
    key = ArtifactKey("train", FINGERPRINT)
    site = checkpoint_site(key, 4)
    commit_attempt(memory_store, site, generation=0, attempt="run-1-1-aa", epoch=1, body={})
    put_fence(memory_store, site.owners, "run-2-1", [])
    retract(memory_store, site, 0, reason="late", attempt="run-2-1")
    fences = Fences(memory_store, site.owners)
    assert not is_retracted(memory_store, site, 0, fences)
    retract(memory_store, site, 0, reason="pruned", attempt="run-3-1")
    assert is_retracted(memory_store, site, 0, fences)
    owners = [owner for _, owner in retractions(memory_store, site, 0)]
    assert owners[-1] == "run-3-1"
    assert set(owners[:-1]) == {"run-2-1"}


def test_decisions_outlive_the_files_of_their_attempts(memory_store: MemoryStore) -> None:
    for name in ("data/a", "data/b"):
        memory_store.put_new(f"{SITE.attempt_key('third')}/{name}", b"1234")
    abort(memory_store, SITE, "third", reason="stopped")
    put_fence(memory_store, SITE.attempts, "third", [])
    assert delete_attempt(memory_store, SITE, "third").bytes == 8
    left = {item.key.rpartition("/")[2] for item in memory_store.list(SITE.attempt_key("third"))}
    assert left == {"OUTCOME", "FENCE"}


def test_a_group_says_of_each_of_its_attempts_what_became_of_it(memory_store: MemoryStore) -> None:
    sites = [shard_site(ArtifactKey("curate", f"{number:02}" * 32)) for number in range(4)]
    abort(memory_store, sites[1], "a1", reason="stopped")
    other = commit_attempt(memory_store, sites[2], generation=0, attempt="other", epoch=1, body={})
    group = [
        Decided(site=site, generation=0, attempt=f"a{number}", epoch=5, body={"n": number})
        for number, site in enumerate(sites)
    ]
    first, aborted, lost, last = commit_all(memory_store, group)
    assert isinstance(aborted, FencedError)
    assert lost == other
    for number, found in ((0, first), (3, last)):
        assert isinstance(found, Commit)
        assert found == read_commit(memory_store, sites[number], 0)
        assert (found.attempt, found.epoch, found.record["n"]) == (f"a{number}", 5, number)
        assert found.data == memory_store.get(sites[number].commit_key(0))
        assert found.committed_s > 1e9
    assert commit_all(memory_store, group)[::3] == [first, last]


def test_a_group_that_nobody_disturbs_costs_two_writes_for_each_attempt_and_no_read() -> None:
    store = PricedStore()
    sites = [shard_site(ArtifactKey("curate", f"{number:02}" * 32)) for number in range(9)]
    done = commit_all(store, [Decided(site=site, generation=0, attempt="a", epoch=1, body={}) for site in sites])
    assert all(isinstance(found, Commit) for found in done)
    assert (store.count("put"), store.count("get")) == (18, 0)
