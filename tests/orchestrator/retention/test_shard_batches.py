"""Collecting thousands of shards with few requests, and exactly what looking at each would collect."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.errors import NewerFormatError
from orchestrator.retention import garbage as collector
from orchestrator.retention.garbage import Garbage, delete_garbage, find_garbage, find_garbage_at
from orchestrator.retention.shard_batches import committed_files, committed_shards, retract_shards, stale_packs
from orchestrator.store.commits import abort, read_outcome, retract, roll_forward
from orchestrator.store.layout import shard_site
from orchestrator.store.shard_packs import Packer, list_packs
from orchestrator.store.store import Store, record_bytes
from tests.orchestrator.artifacts.test_shard_search import KIND, fingerprints, put_shard
from tests.orchestrator.conftest import MemoryStore
from tests.orchestrator.store.priced_store import PricedStore

NUM = 4000


def dead(_attempt: str) -> bool:
    return False


def collect(store: Store, is_live: Callable[[str], bool] = dead) -> list[Garbage]:
    return find_garbage(store, now_s=1000.0, is_live=is_live, older_than_s=0.0)


def test_thousands_of_sound_shards_are_listed_and_not_asked_for() -> None:
    store = PricedStore()
    for fingerprint in fingerprints(NUM):
        put_shard(store, fingerprint)
    store.forget()
    assert collect(store) == []
    assert store.count("get") == 0
    assert store.count("list") < 256 + 10


def test_thousands_of_retracted_shards_go_with_one_request_each_and_few_more() -> None:
    store, keys = PricedStore(), [ArtifactKey(KIND, fingerprint) for fingerprint in fingerprints(NUM)]
    for key in keys:
        put_shard(store, key.fingerprint)
    packer = Packer(store, KIND, "m")
    ShardLedger(store, Path("/nowhere")).find_many(KIND, [key.fingerprint for key in keys], packer)
    packer.close()
    store.forget()
    committed = committed_shards(store, keys)
    assert len(committed) == NUM
    assert sum(store.requests.values()) < 400  # below few prefixes there are so few that each is asked for
    retract_shards(store, committed, reason="test")
    assert store.count("put") == NUM
    assert committed_shards(store, keys) == []
    store.forget()
    found = collect(store)
    assert [(item.reason, item.files, item.bytes) for item in found] == [("retracted", 1, 4)] * NUM
    assert store.count("get") == 0
    report = delete_garbage(store, found, is_live=dead)
    assert (report.items, report.bytes, report.kept) == (NUM, 4 * NUM, ())
    assert store.count("get") == 0
    assert store.count("delete") == NUM // 1000
    assert store.count("list") < 600
    store.forget()
    assert collect(store) == []
    assert store.count("get") == 0  # collected shards cost nothing but their listing


def test_what_is_kept_of_a_collected_shard_are_its_decisions(memory_store: MemoryStore) -> None:
    put_shard(memory_store, "ab" * 32)
    site = shard_site(ArtifactKey(KIND, "ab" * 32))
    retract_shards(memory_store, [(site, 0)], reason="test")
    delete_garbage(memory_store, collect(memory_store), is_live=dead)
    left = [item.key for item in memory_store.list("shards")]
    attempt = "run-1-0123456789abcdef"
    assert left == [f"{site.stem}.json", f"{site.stem}.json.RETRACTED", site.outcome_key(attempt)]
    assert read_outcome(memory_store, site, attempt) is not None


class Shards:
    """Shards in every state that the protocol allows."""

    def __init__(self) -> None:
        self.store, self.names, self.attempts = MemoryStore(), fingerprints(8), 0

    def _attempt(self) -> str:
        self.attempts += 1
        return f"run-{self.attempts % 3}-{self.attempts:016x}"

    def finish(self, name: str, rng: random.Random) -> None:
        site = shard_site(ArtifactKey(KIND, name))
        found = roll_forward(self.store, site)
        if not found.commit and not found.problem:
            put_shard(self.store, name, generation=found.generation, attempt=self._attempt())

    def write(self, name: str, rng: random.Random) -> None:
        """An attempt without an outcome, alive or not."""
        self.store.put_new(f"{shard_site(ArtifactKey(KIND, name)).data_key(self._attempt())}/part", b"part")

    def decide(self, name: str, rng: random.Random) -> None:
        """An attempt that crashed between its outcome and the record."""
        site, attempt = shard_site(ArtifactKey(KIND, name)), self._attempt()
        generation = roll_forward(self.store, site).generation
        self.store.put_new(f"{site.data_key(attempt)}/part", b"part")
        record = {"format": 1, "attempt": attempt, "epoch": 1, "files": [], "outcome": {"rows": 1, "quarantined": []}}
        decided = {"format": 1, "outcome": "COMMIT", "generation": generation, "record": record}
        self.store.put_new(site.outcome_key(attempt), record_bytes(decided))  # type: ignore[arg-type]  # plain JSON

    def lose(self, name: str, rng: random.Random) -> None:
        site, attempt = shard_site(ArtifactKey(KIND, name)), self._attempt()
        self.store.put_new(f"{site.data_key(attempt)}/part", b"part")
        abort(self.store, site, attempt, reason="test")

    def retract(self, name: str, rng: random.Random) -> None:
        site = shard_site(ArtifactKey(KIND, name))
        found = roll_forward(self.store, site)
        if found.commit or found.problem:
            retract(self.store, site, found.generation, reason="test")

    def junk(self, name: str, rng: random.Random) -> None:
        site = shard_site(ArtifactKey(KIND, name))
        found = roll_forward(self.store, site)
        if found.commit:
            self.store.objects[site.commit_key(found.generation)] = b"junk"

    def delete(self, name: str, rng: random.Random) -> None:
        delete_garbage(self.store, collect(self.store, is_alive), is_live=is_alive)

    def pack(self, name: str, rng: random.Random) -> None:
        packer = Packer(self.store, KIND, "m")
        ShardLedger(self.store, Path("/nowhere")).find_many(KIND, self.names, packer)
        packer.flush()


def is_alive(attempt: str) -> bool:
    return attempt.startswith("run-0")


ACTIONS = ("finish", "write", "decide", "lose", "retract", "junk", "delete", "pack")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_the_garbage_of_shards_is_what_a_look_at_each_finds(seed: int) -> None:
    rng, world = random.Random(seed), Shards()
    for _ in range(40):
        getattr(world, rng.choice(ACTIONS))(rng.choice(world.names), rng)
    found = collect(world.store, is_alive)
    each = find_garbage_at(world.store, [shard_site(ArtifactKey(KIND, name)) for name in world.names], is_live=is_alive)
    assert sorted(found, key=lambda item: item.key) == sorted(each, key=lambda item: item.key)
    before = committed(world)
    report = delete_garbage(world.store, found, is_live=is_alive)
    assert report.items + len(report.kept) == len(found)
    assert committed(world) == before
    for shard, attempt, files in committed_files(world.store, skip=lambda key: False):
        assert before[shard.key.fingerprint] == attempt
        assert files
    assert [item for item in collect(world.store, is_alive) if item.reason != "abandoned"] == []


def committed(world: Shards) -> dict[str, str]:
    heads = {name: roll_forward(world.store, shard_site(ArtifactKey(KIND, name))).commit for name in world.names}
    return {name: commit.attempt for name, commit in heads.items() if commit}


def test_a_pack_goes_once_none_of_its_records_counts(memory_store: MemoryStore) -> None:
    names = fingerprints(300)
    for name in names:
        put_shard(memory_store, name)
    packer = Packer(memory_store, KIND, "m")
    ShardLedger(memory_store, Path("/nowhere")).find_many(KIND, names, packer)
    packer.close()
    (pack,) = list_packs(memory_store, KIND)
    keys = [ArtifactKey(KIND, name) for name in names]
    retract_shards(memory_store, committed_shards(memory_store, keys[1:]), reason="")
    assert list(stale_packs(memory_store, before_s=0.0)) == []
    retract_shards(memory_store, committed_shards(memory_store, keys[:1]), reason="")
    assert [item.key for item in stale_packs(memory_store, before_s=0.0)] == [pack.key]
    assert list(stale_packs(memory_store, before_s=-1.0)) == []


def test_the_record_of_a_newer_version_is_never_retracted(memory_store: MemoryStore) -> None:
    names = fingerprints(4000)
    for name in names:
        put_shard(memory_store, name)
    key = shard_site(ArtifactKey(KIND, names[7])).commit_key(0)
    memory_store.objects[key] = memory_store.objects[key].replace(b'"format":1', b'"format":27')
    with pytest.raises(NewerFormatError):
        committed_shards(memory_store, [ArtifactKey(KIND, name) for name in names])
    with pytest.raises(NewerFormatError):
        list(committed_files(memory_store, skip=lambda key: False))


def test_few_shards_are_asked_for_one_by_one() -> None:
    store = PricedStore()
    for fingerprint in fingerprints(5):
        put_shard(store, fingerprint)
    store.forget()
    assert len(committed_shards(store, [ArtifactKey(KIND, fingerprint) for fingerprint in fingerprints(5)])) == 5
    assert store.count("list") == 0


def test_a_shard_that_is_used_meanwhile_is_kept(memory_store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put_shard(memory_store, "ab" * 32)
    key = ArtifactKey(KIND, "ab" * 32)
    retract_shards(memory_store, [(shard_site(key), 0)], reason="test")
    found = collect(memory_store)
    monkeypatch.setattr(collector.Uses, "shards_in_use", lambda self: {key})
    report = delete_garbage(memory_store, found, is_live=dead)
    assert (report.items, report.kept) == (0, (found[0].key,))
    assert delete_garbage(memory_store, found, is_live=dead, even_in_use=True).items == 1
