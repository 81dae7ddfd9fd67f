"""Retracting unneeded artifacts and deleting files, in any order with runs, pins and makers, compared with a model.

Attempts of maps also act in the middle of a collection: right before each retraction and each deletion.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.artifacts.uses import record_use
from orchestrator.attempt_id import AttemptId
from orchestrator.backends.objects import StoredObject
from orchestrator.history.attempts import StageRow
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import runs
from orchestrator.history.events import RunState
from orchestrator.history.leases import Lease, Leases
from orchestrator.history.run_store import RunStore
from orchestrator.identity import fingerprint_of
from orchestrator.liveness.liveness import Liveness
from orchestrator.retention.garbage import Garbage, delete_garbage, find_garbage
from orchestrator.retention.pins import pin, unpin
from orchestrator.retention.unneeded import UnneededArtifact, retract_unneeded, unneeded_artifacts
from orchestrator.shards import ShardOutcome
from orchestrator.store.attempt_folder import AttemptFolder
from tests.orchestrator.conftest import MemoryStore

AGE_S = 5.0
STAGES = ("read", "mix", "model", "report")  # each is made from the one before
MODEL = "model"  # can be registered


@dataclass
class AgingStore(MemoryStore):
    """Knows when each object was written, by a clock that the test sets."""

    now_s: float = 1000.0
    written_s: dict[str, float] = field(default_factory=dict)
    before_change: Callable[[str], None] = lambda key: None  # called before each retraction and each deletion

    def put_new(self, key: str, data: bytes) -> bool:
        if "RETRACTED" in key:
            self.before_change(key)
        return super().put_new(key, data)

    def delete(self, key: str) -> None:
        self.before_change(key)
        super().delete(key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for item in super().list(prefix):
            written_s = self.written_s.setdefault(item.key, self.now_s)
            yield StoredObject(key=item.key, bytes=item.bytes, modified_s=written_s)

    def tick(self) -> None:
        list(self.list("artifacts"))
        self.now_s += 2.0


@dataclass(frozen=True)
class Stage:
    """A stage of a plan. Runs that share the first stages share their artifacts."""

    key: ArtifactKey
    payload: dict[str, object]
    inputs: tuple[str, ...]
    shard: str


def plan_of(recipe: int, change: int) -> list[Stage]:
    """The stages of a recipe; those from index `change` on differ from its first version."""
    stages: list[Stage] = []
    for position, kind in enumerate(STAGES[: 3 + recipe]):
        inputs = (stages[-1].key.fingerprint,) if stages else ()
        payload: dict[str, object] = {"kind": kind, "changed": position >= change, "inputs": list(inputs)}
        shard = f"{position:02}" * 32  # shared by all artifacts of the kind
        stages.append(Stage(ArtifactKey(kind, fingerprint_of(payload)), payload, inputs, shard))  # type: ignore[arg-type]  # plain JSON
    return stages


@dataclass
class Run:
    recipe: int
    stages: list[Stage]
    lease: Lease
    epoch: int
    is_open: bool = True


@dataclass
class MapAttempt:
    """An attempt that has its shard on record, and perhaps has found it."""

    stage: Stage
    folder: AttemptFolder
    has_looked: bool = False
    found: StoredShard | None = None


class World:
    """The real store and database, and the model that they are compared with."""

    def __init__(self, folder: Path) -> None:
        self.store = AgingStore()
        self.artifacts = ArtifactStore(self.store, folder / "cache")
        self.ledger = ShardLedger(self.store, folder / "cache")
        self.database = Database(str(folder / "index.db"))
        self.history, self.leases = RunStore(self.database), Leases(self.database)
        self.liveness = Liveness(store=self.store, database=self.database, leases=self.leases, jobs=None)
        self.numbers = count()
        self.runs: list[Run] = []
        self.committed: dict[ArtifactKey, tuple[Stage, float]] = {}  # with the time of its commit
        self.pins: set[ArtifactKey] = set()
        self.reserved: dict[ArtifactKey, Lease] = {}
        self.unneeded: list[UnneededArtifact] = []
        self.garbage: list[Garbage] = []
        self.registered = False
        self.maps: list[MapAttempt] = []
        self.num_retracted = self.num_spared = self.num_deleted = self.num_linked = 0

    # The actions.

    def start(self, a: int, b: int) -> None:
        number, stages = next(self.numbers), plan_of(a % 2, b % 4)
        rows = [
            StageRow(
                stage_id=s.key.stage_kind, stage_kind=s.key.stage_kind, fingerprint=s.key.fingerprint, action="run"
            )
            for s in stages
        ]
        run_id = f"run-{number}"
        self.history.create_run(run_id, recipe_name=str(a % 2), plan_digest="d" * 64, stages=rows)
        at = update(runs).where(runs.c.run_id == run_id).values(created_at=float(number))
        self.database.write(lambda connection: connection.execute(at))
        lease = self.leases.acquire(f"run:{run_id}")
        assert lease
        self.runs.append(Run(a % 2, stages, lease, self.history.begin_epoch(run_id, lease)))

    def commit(self, a: int, b: int) -> None:
        """Commit the first missing stages of an open run."""
        open_runs = [run for run in self.runs if run.is_open]
        missing = [
            s for s in (open_runs[a % len(open_runs)].stages if open_runs else []) if s.key not in self.committed
        ]
        for stage in missing[: 1 + b % 4]:
            self._make(stage)

    def _make(self, stage: Stage) -> None:
        shard, attempt_id = ArtifactKey(stage.key.stage_kind, stage.shard), f"attempt-{next(self.numbers)}"
        if self.ledger.find(shard) is None:
            output = self.ledger.new_output(shard, owner=attempt_id)
            (output.data / "part").write_bytes(b"part")
            self.ledger.record(output, ShardOutcome(rows=1), provenance={})
        attempt = self.artifacts.new_attempt(stage.key, attempt_id)
        (attempt.data / "own").write_bytes(b"own")
        self.artifacts.commit(attempt, self._draft(stage), epoch=1)
        self.store.tick()
        self.committed[stage.key] = (stage, self.store.now_s - 2.0)

    def _draft(self, stage: Stage) -> ManifestDraft:
        return ManifestDraft(
            kind=f"{stage.key.stage_kind}@1",
            payload=stage.payload,  # type: ignore[arg-type]  # plain JSON
            metrics={},
            shards=(stage.shard,),
            inputs={"from": stage.inputs} if stage.inputs else {},
        )

    def end(self, a: int, b: int) -> None:
        open_runs = [run for run in self.runs if run.is_open]
        if open_runs:
            run = open_runs[a % len(open_runs)]
            run.is_open = False
            new = (RunState.SUCCEEDED, RunState.FAILED)[b % 2]
            run_id = run.lease.resource.removeprefix("run:")
            self.history.transition_run(run_id, RunState.RUNNING, new, epoch=run.epoch)

    def register(self, _a: int, b: int) -> None:
        self.registered = b % 2 == 0

    def wait(self, _a: int, _b: int) -> None:
        self.store.tick()

    def pin(self, a: int, b: int) -> None:
        for key in self._some(a):
            (pin if b % 3 else unpin)(self.store, key)
            (self.pins.add if b % 3 else self.pins.discard)(key)

    def reserve(self, a: int, b: int) -> None:
        for key in self._some(a):
            if key in self.reserved:
                self.leases.release(self.reserved.pop(key), forget=bool(b % 2))
            elif lease := self.leases.acquire(f"artifact:{key.fingerprint}"):
                self.reserved[key] = lease

    def find_unneeded(self, _a: int, _b: int) -> None:
        self.unneeded = unneeded_artifacts(
            self.artifacts,
            self.liveness,
            now_s=self.store.now_s,
            older_than_s=AGE_S,
            is_registered=lambda kind: kind == MODEL and self.registered,
        )
        young = {key for key, (_, at_s) in self.committed.items() if at_s > self.store.now_s - AGE_S}
        models = {key for key in self.committed if key.stage_kind == MODEL and self.registered}
        expected = set(self.committed) - self._closed(self._claimed() | young | models)
        assert {artifact.key for artifact in self.unneeded} == expected

    def retract_unneeded(self, _a: int, _b: int) -> None:
        """Retract what `find_unneeded` found some time ago."""
        claimed = self._closed(self._claimed())
        retracted = retract_unneeded(self.artifacts, self.liveness, self.unneeded, reason="nobody needs it")
        keys = {artifact.key for artifact in retracted}
        assert not keys & claimed
        self.num_retracted += len(keys)
        self.num_spared += len(self.unneeded) - len(keys)
        self.unneeded = []
        for key in keys:
            self.committed.pop(key, None)

    def map(self, a: int, b: int) -> None:
        """An attempt of a run that may be at work records the shard that it is going to look for."""
        missing = [(run, s) for run in self.runs if run.is_open for s in run.stages if s.key not in self.committed]
        if missing:
            run, stage = missing[a % len(missing)]
            run_id, number = run.lease.resource.removeprefix("run:"), next(self.numbers)
            attempt = AttemptId.of(run_id, stage.key.stage_kind, epoch=run.epoch, number=number)
            self.maps.append(MapAttempt(stage, self.artifacts.new_attempt(stage.key, attempt.name, attempt=attempt)))
            record_use(self.store, attempt, stage.key, shards=[stage.shard])

    def look(self, a: int, b: int) -> None:
        for entry in self._some_map(a):
            if not entry.has_looked:
                entry.has_looked = True
                entry.found = self.ledger.find(ArtifactKey(entry.stage.key.stage_kind, entry.stage.shard))

    def finish_map(self, a: int, b: int) -> None:
        """Commit with the shard that was found, whatever has happened since; or abort."""
        for entry in self._some_map(a):
            self.maps.remove(entry)
            if not b % 4:
                self.artifacts.abort(entry.folder, reason="failed")
            elif entry.has_looked:
                self._commit_map(entry)

    def _commit_map(self, entry: MapAttempt) -> None:
        stage, folder = entry.stage, entry.folder
        shard = ArtifactKey(stage.key.stage_kind, stage.shard)
        if entry.found is None:
            output = self.ledger.new_output(shard, owner=folder.attempt_id)
            (output.data / "part").write_bytes(b"part")
            entry.found = self.ledger.record(output, ShardOutcome(rows=1), provenance={})
        else:
            self.num_linked += 1
        folder.link(entry.found.key_of("part"), "part", entry.found.files[0])
        self.artifacts.commit(folder, self._draft(stage), epoch=1)
        self.committed.setdefault(stage.key, (stage, self.store.now_s))

    def find_garbage(self, _a: int, _b: int) -> None:
        self.garbage = find_garbage(self.store, now_s=self.store.now_s, is_live=lambda attempt: True, older_than_s=0.0)

    def delete_garbage(self, _a: int, _b: int) -> None:
        """Delete what `find_garbage` found some time ago."""
        report = delete_garbage(self.store, self.garbage, is_live=lambda attempt: True)
        self.garbage = []
        self.num_deleted += report.items

    # The model.

    def _some_map(self, a: int) -> list[MapAttempt]:
        return self.maps[a % len(self.maps) :][:1] if self.maps else []

    def _some(self, a: int) -> list[ArtifactKey]:
        return sorted(self.committed)[a % len(self.committed) :][:1] if self.committed else []

    def _claimed(self) -> set[ArtifactKey]:
        newest = {run.recipe: run for run in self.runs}
        wanted = [run for run in self.runs if run.is_open or newest[run.recipe] is run]
        return {stage.key for run in wanted for stage in run.stages} | self.pins | set(self.reserved)

    def _closed(self, keys: set[ArtifactKey]) -> set[ArtifactKey]:
        found = {key for key in keys if key in self.committed}
        parents = {fingerprint for key in found for fingerprint in self.committed[key][0].inputs}
        more = {key for key in self.committed if key.fingerprint in parents}
        return found if more <= found else self._closed(found | more)

    def check(self, *, shards: bool = True) -> None:
        """The store has exactly the artifacts of the model, undamaged and (`shards`) with their shards."""
        stored = {artifact.manifest.key for artifact in self.artifacts.all()}
        assert stored == set(self.committed)
        for key in stored:
            assert self.artifacts.verify(key) == []
            if shards:
                assert self.ledger.find(ArtifactKey(key.stage_kind, self.committed[key][0].shard)) is not None


@contextmanager
def open_world() -> Iterator[World]:
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            yield world
        finally:
            world.history.close()
            world.database.close()


WEIGHTS = {
    "start": 8,
    "commit": 12,
    "end": 14,
    "wait": 12,
    "pin": 2,
    "reserve": 1,
    "register": 1,
    "find_unneeded": 10,
    "retract_unneeded": 6,
    "map": 3,
    "look": 3,
    "finish_map": 3,
    "find_garbage": 6,
    "delete_garbage": 6,
}
MIDWAY = {"start": 2, "map": 3, "look": 3, "finish_map": 1}


def run_actions(world: World, seed: int, *, meddle: bool = False) -> None:
    """`meddle`: attempts of maps act in the middle of retractions and deletions too."""
    rng = random.Random(seed)

    def meddling(_key: str) -> None:
        world.store.before_change = lambda key: None
        for name in rng.choices(list(MIDWAY), list(MIDWAY.values()), k=rng.randrange(8)):
            getattr(world, name)(rng.randrange(12), rng.randrange(12))
        world.store.before_change = meddling

    for name in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=110):
        if meddle and name in ("retract_unneeded", "delete_garbage"):
            world.store.before_change = meddling
        getattr(world, name)(rng.randrange(12), rng.randrange(12))  # the names are those of `WEIGHTS`
        world.store.before_change = lambda key: None
        if name == "retract_unneeded":
            world.check(shards=not meddle)
    world.check(shards=not meddle)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_no_order_of_actions_retracts_a_needed_artifact(seed: int) -> None:
    with open_world() as world:
        run_actions(world, seed)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_no_map_in_the_middle_of_a_collection_loses_what_it_found(seed: int) -> None:
    """A shard that is looked for at the very moment of its retraction may be made again, but never breaks its user."""
    with open_world() as world:
        run_actions(world, seed, meddle=True)


def test_the_tried_orders_retract_many_artifacts_and_spare_some() -> None:
    sums = Counter[str]()
    for seed in range(10):
        with open_world() as world:
            run_actions(world, seed, meddle=seed % 2 == 0)
            sums.update({name: number for name, number in vars(world).items() if name.startswith("num_")})
    assert sums["num_retracted"] > 10
    assert sums["num_spared"] > 0
    assert sums["num_deleted"] > 5
    assert sums["num_linked"] > 0


COLLECTION = ("find_unneeded", "retract_unneeded", "find_garbage", "delete_garbage")
NUM_MOMENTS = 8  # of a collection: the start of each of its four parts, two retractions, the shard's deletion, the end


@pytest.mark.parametrize("looks_at", range(NUM_MOMENTS))
def test_a_map_may_begin_look_and_finish_at_any_moments_of_a_collection(looks_at: int) -> None:
    """All of them: run 2 reuses the only shard of run 0, whose artifact nothing needs."""
    outcomes = Counter[str]()
    for begins_at in range(looks_at + 1):
        for finishes_at in range(looks_at, NUM_MOMENTS):
            with open_world() as world:
                outcomes[collect_beside_a_map(world, begins_at, looks_at, finishes_at)] += 1
    assert outcomes["reused"] + outcomes["made again"] == (looks_at + 1) * (NUM_MOMENTS - looks_at)
    assert outcomes["reused"] > 0 or looks_at > 3


def collect_beside_a_map(world: World, begins_at: int, looks_at: int, finishes_at: int) -> str:
    for name, a, b in (("start", 0, 9), ("commit", 0, 0), ("end", 0, 0), ("start", 0, 0), ("end", 0, 1)):
        getattr(world, name)(a, b)
    for _ in range(4):
        world.wait(0, 0)
    moments, made = count(), list[str]()

    def is_watched(key: str) -> bool:
        return key.endswith(".RETRACTED") or key.startswith("shards/")

    def moment() -> None:
        now = next(moments)
        if now == begins_at:
            world.start(0, 0)
            world.map(0, 0)
        if now == looks_at:
            world.look(0, 0)
            made.append("made again" if world.maps[0].found is None else "reused")
        if now == finishes_at:
            world.finish_map(0, 1)

    world.store.before_change = lambda key: moment() if is_watched(key) else None
    for name in COLLECTION:
        moment()
        getattr(world, name)(0, 0)
    world.store.before_change = lambda key: None
    while world.maps or not made:  # a collection that finds nothing to delete has fewer moments
        moment()
    world.check(shards=False)
    return made[0]


def test_an_artifact_claimed_after_the_search_stays_with_its_inputs() -> None:
    story = [
        ("start", 2, 9),
        ("commit", 0, 1),
        ("end", 0, 0),
        ("start", 2, 0),
        ("end", 0, 0),
        *[("wait", 0, 0)] * 4,
    ]
    with open_world() as world:
        for name, a, b in story:
            getattr(world, name)(a, b)
        world.find_unneeded(0, 0)
        assert len(world.unneeded) == 2
        world.pin(0, 1)  # the later of the two
        assert {key.stage_kind for key in world.pins} == {"mix"}
        world.retract_unneeded(0, 0)
        assert len(world.committed) == 2
        world.pin(0, 0)
        world.find_unneeded(0, 0)
        world.retract_unneeded(0, 0)
        assert world.committed == {}
        world.check()
