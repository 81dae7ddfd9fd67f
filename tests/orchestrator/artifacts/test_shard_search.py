"""Finding many shards: with few requests, and exactly as finding each by itself would."""

import hashlib
import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts import shard_search
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.retention.garbage import delete_garbage, find_garbage
from orchestrator.retention.shard_batches import stale_packs
from orchestrator.store.commits import committed_attempt, retract, roll_forward
from orchestrator.store.layout import shard_site
from orchestrator.store.shard_packs import Packer, list_packs
from orchestrator.store.store import Store, record_bytes
from tests.orchestrator.conftest import MemoryStore
from tests.orchestrator.store.interleaving import Crash, Scheduler, SteppedStore
from tests.orchestrator.store.priced_store import PricedStore

KIND = "curate"


def fingerprints(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def put_shard(store: Store, fingerprint: str, *, generation: int = 0, attempt: str = "run-1-0123456789abcdef") -> None:
    """A finished shard as `ShardLedger.record` leaves it, written directly as that is much faster."""
    site = shard_site(ArtifactKey(KIND, fingerprint))
    outcome = {"rows": 1, "quarantined": [], "metrics": {}, "result": None}
    files = [{"path": "part", "bytes": 4, "sha256": "ab" * 32}]
    record = {"format": 1, "attempt": attempt, "epoch": 1, "files": files, "outcome": outcome, "provenance": {}}
    store.put_new(f"{site.data_key(attempt)}/part", b"part")
    decided = {"format": 1, "outcome": "COMMIT", "generation": generation, "record": record}
    store.put_new(site.outcome_key(attempt), record_bytes(decided))  # type: ignore[arg-type]  # plain JSON
    store.put_new(site.commit_key(generation), record_bytes(record))  # type: ignore[arg-type]  # plain JSON


def test_thousands_are_found_with_few_requests_once_they_are_packed(tmp_path: Path) -> None:
    store, wanted = PricedStore(), fingerprints(6000)
    ledger = ShardLedger(store, tmp_path)
    for fingerprint in wanted:
        put_shard(store, fingerprint)
    store.forget()
    packer = Packer(store, KIND, "m")
    first = ledger.find_many(KIND, wanted, packer)
    packer.close()
    assert (len(first), store.count("get")) == (6000, 6000)  # as an older version has left them
    store.forget()
    assert ledger.find_many(KIND, wanted, Packer(store, KIND, "m")) == first
    assert (store.count("get"), store.count("list"), store.count("put")) == (2, 257, 0)
    store.forget()
    assert {stored.key.fingerprint: stored for stored in ledger.all()} == first
    assert (store.count("get"), store.count("list")) == (2, 258)


def test_few_among_many_are_asked_for_one_by_one(tmp_path: Path) -> None:
    store, known = PricedStore(), fingerprints(10)
    for fingerprint in known:
        put_shard(store, fingerprint)
    store.forget()
    assert len(ShardLedger(store, tmp_path).find_many(KIND, known[:5])) == 5
    assert store.count("list") == 5


def test_a_list_that_would_be_longer_than_the_questions_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_search, "FEW", 1)
    monkeypatch.setattr(shard_search, "LISTED_AT_ONCE", 10)
    store, known = PricedStore(), fingerprints(6000)
    for fingerprint in known:
        put_shard(store, fingerprint)
    store.forget()
    assert len(ShardLedger(store, tmp_path).find_many(KIND, known[:3])) == 3
    assert store.count("list") == 4


@dataclass
class World:
    """Shards in any state, with packs that were made at any time."""

    store: MemoryStore = field(default_factory=MemoryStore)
    names: list[str] = field(default_factory=lambda: fingerprints(12))
    attempts: int = 0

    def make(self, name: str, rng: random.Random) -> None:
        site = shard_site(ArtifactKey(KIND, name))
        found = roll_forward(self.store, site)
        if not (found.commit or found.problem):
            self.attempts += 1
            put_shard(self.store, name, generation=found.generation, attempt=f"run-{self.attempts}-0123456789abcdef")

    def retract(self, name: str, rng: random.Random) -> None:
        site = shard_site(ArtifactKey(KIND, name))
        found = roll_forward(self.store, site)
        if found.commit or found.problem:
            retract(self.store, site, found.generation, reason="test")

    def lose_a_file(self, name: str, rng: random.Random) -> None:
        self._spoil(name, "/data/", rng)

    def lose_a_record(self, name: str, rng: random.Random) -> None:
        self._spoil(name, ".json", rng)

    def cut(self, name: str, rng: random.Random) -> None:
        for key in self._keys(name, "/data/"):
            self.store.objects[key] = b""

    def junk(self, name: str, rng: random.Random) -> None:
        for key in self._keys(name, ".json"):
            if not list_packs(self.store, KIND):  # a record that was packed is never written again
                self.store.objects[key] = b"junk"

    def pack(self, name: str, rng: random.Random) -> None:
        packer = Packer(self.store, KIND, "m")
        ShardLedger(self.store, Path("/nowhere")).find_many(KIND, self.names, packer)
        packer.flush()

    def lose_a_pack(self, name: str, rng: random.Random) -> None:
        for item in list_packs(self.store, KIND)[:1]:
            self.store.delete(item.key)

    def _keys(self, name: str, part: str) -> list[str]:
        return [key for key in self.store.objects if name in key and part in key]

    def _spoil(self, name: str, part: str, rng: random.Random) -> None:
        for key in self._keys(name, part)[-1:]:
            self.store.delete(key)


ACTIONS = ("retract", "lose_a_file", "lose_a_record", "cut", "junk", "lose_a_pack", *["make"] * 3, *["pack"] * 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_many_are_found_exactly_as_one_by_one(seed: int) -> None:
    rng, world = random.Random(seed), World()
    few, shard_search.FEW = shard_search.FEW, 1
    try:
        for _ in range(60):
            name = rng.choice(world.names)
            getattr(world, rng.choice(ACTIONS))(name, rng)
        ledger = ShardLedger(world.store, Path("/nowhere"))
        many = ledger.find_many(KIND, world.names, Packer(world.store, KIND, "m"))
        assert many == one_by_one(ledger, world.names)
        assert {stored.key.fingerprint for stored in ledger.all()} >= many.keys()
    finally:
        shard_search.FEW = few


def one_by_one(ledger: ShardLedger, names: list[str]) -> dict[str, StoredShard]:
    found = [ledger.find(ArtifactKey(KIND, name)) for name in names]
    return {stored.key.fingerprint: stored for stored in found if stored}


@dataclass
class Crowd:
    """Drivers that pack, a collector and a maker on one store; each call on the store waits for its turn."""

    rng: random.Random
    world: World = field(default_factory=World)
    found: list[StoredShard] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.rng)
        for name in self.world.names[:9]:
            self.world.make(name, self.rng)

    def stepped(self, actor: str, dies_at: int = 10**9) -> SteppedStore:
        return SteppedStore(self.world.store, self.scheduler, actor, dies_at=dies_at, is_local=True)  # no threads

    def drive(self, actor: str, dies_at: int = 10**9) -> None:
        store = self.stepped(actor, dies_at)
        with suppress(Crash):
            for _ in range(2):
                packer = Packer(store, KIND, "m")
                self.found += ShardLedger(store, Path("/nowhere")).find_many(KIND, self.world.names, packer).values()
                packer.flush()

    def collect(self) -> None:
        store = self.stepped("collector")
        for name in self.rng.sample(self.world.names, 4):
            site = shard_site(ArtifactKey(KIND, name))
            head = roll_forward(store, site)
            if head.commit:
                retract(store, site, head.generation, reason="test")
        garbage = find_garbage(store, now_s=1.0, is_live=lambda _attempt: True, older_than_s=0.0)
        delete_garbage(store, garbage, is_live=lambda _attempt: True)
        for item in list(stale_packs(store, before_s=1.0)):
            store.delete(item.key)

    def make(self) -> None:
        store = self.stepped("maker")
        for number, name in enumerate(self.rng.choices(self.world.names, k=6)):
            head = roll_forward(store, shard_site(ArtifactKey(KIND, name)))
            if not head.commit:
                put_shard(store, name, generation=head.generation, attempt=f"maker-{number}-0123456789abcdef")

    def check(self) -> None:
        """What was found was committed, and what is found now is what is there."""
        for stored in self.found:
            data = self.world.store.get(shard_site(stored.key).commit_key(stored.commit.generation))
            assert data is not None
            assert committed_attempt(data, "") == stored.commit.attempt
        ledger = ShardLedger(self.world.store, Path("/nowhere"))
        many = ledger.find_many(KIND, self.world.names, Packer(self.world.store, KIND, "m"))
        assert many == one_by_one(ledger, self.world.names)
        assert self.found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_two_drivers_pack_beside_a_collector_a_maker_and_a_driver_that_dies(seed: int) -> None:
    few, shard_search.FEW = shard_search.FEW, 1
    try:
        crowd = Crowd(random.Random(seed))
        crowd.scheduler.run(
            {
                "first": lambda: crowd.drive("first"),
                "second": lambda: crowd.drive("second"),
                "mortal": lambda: crowd.drive("mortal", dies_at=crowd.rng.randrange(600)),
                "collector": crowd.collect,
                "maker": crowd.make,
            }
        )
        crowd.check()
    finally:
        shard_search.FEW = few
