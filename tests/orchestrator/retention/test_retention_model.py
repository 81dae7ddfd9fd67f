"""Giving up artifacts, in any order with runs, pins and makers, against a plain model of what is needed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.history.attempts import StageRow
from orchestrator.history.database import Database
from orchestrator.history.events import RunState
from orchestrator.history.leases import Lease, Leases
from orchestrator.history.run_store import RunStore
from orchestrator.history.schema import runs
from orchestrator.identity import fingerprint_of
from orchestrator.retention.pins import Place, pin, unpin
from orchestrator.retention.unneeded import Unneeded, give_up, unneeded_artifacts
from orchestrator.shards import ShardOutcome
from orchestrator.store.objects import StoredObject
from tests.orchestrator.conftest import MemoryStore

AGE_S = 5.0
STAGES = ("read", "mix", "model", "report")  # each is made from the one before
MODEL = "model"  # can be registered


@dataclass
class AgingStore(MemoryStore):
    """Knows when each object was written, by a clock that the test turns."""

    now_s: float = 1000.0
    written_s: dict[str, float] = field(default_factory=dict)

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

    place: Place
    payload: dict[str, object]
    inputs: tuple[str, ...]
    shard: str


def plan_of(recipe: int, change: int) -> list[Stage]:
    """`change` says from which stage on the recipe differs from its first form."""
    stages: list[Stage] = []
    for position, kind in enumerate(STAGES[: 3 + recipe]):
        inputs = (stages[-1].place[1],) if stages else ()
        payload: dict[str, object] = {"kind": kind, "changed": position >= change, "inputs": list(inputs)}
        shard = f"{position:02}" * 32  # held by every artifact of the kind
        stages.append(Stage((kind, fingerprint_of(payload)), payload, inputs, shard))  # type: ignore[arg-type]  # plain JSON
    return stages


@dataclass
class Run:
    recipe: int
    stages: list[Stage]
    lease: Lease
    epoch: int
    is_open: bool = True


class World:
    """The real store and database, and the model beside them."""

    def __init__(self, folder: Path) -> None:
        self.store = AgingStore()
        self.artifacts = ArtifactStore(self.store, folder / "cache")
        self.ledger = ShardLedger(self.store, folder / "cache")
        self.database = Database(str(folder / "index.db"))
        self.history, self.leases = RunStore(self.database), Leases(self.database)
        self.numbers = count()
        self.runs: list[Run] = []
        self.there: dict[Place, tuple[Stage, float]] = {}  # with the time of its commit
        self.pins: set[Place] = set()
        self.reserved: dict[Place, Lease] = {}
        self.told: list[Unneeded] = []
        self.registered = False
        self.num_given_up = self.num_spared = 0

    # What can happen.

    def start(self, a: int, b: int) -> None:
        number, stages = next(self.numbers), plan_of(a % 2, b % 4)
        rows = [
            StageRow(stage_id=s.place[0], stage_kind=s.place[0], fingerprint=s.place[1], action="run") for s in stages
        ]
        run_id = f"run-{number}"
        self.history.create_run(run_id, recipe_name=str(a % 2), plan_digest="d" * 64, stages=rows)
        at = update(runs).where(runs.c.run_id == run_id).values(created_at=float(number))
        self.database.write(lambda connection: connection.execute(at))
        lease = self.leases.acquire(f"run:{run_id}")
        assert lease
        self.runs.append(Run(a % 2, stages, lease, self.history.begin_epoch(run_id, lease)))

    def commit(self, a: int, b: int) -> None:
        """The first stages that are missing."""
        open_runs = [run for run in self.runs if run.is_open]
        missing = [s for s in (open_runs[a % len(open_runs)].stages if open_runs else []) if s.place not in self.there]
        for stage in missing[: 1 + b % 4]:
            self._make(stage)

    def _make(self, stage: Stage) -> None:
        (kind, fingerprint), attempt_id = stage.place, f"attempt-{next(self.numbers)}"
        if self.ledger.find(kind, stage.shard) is None:
            output = self.ledger.new_output(kind, stage.shard, owner=attempt_id)
            (output.data / "part").write_bytes(b"part")
            self.ledger.record(output, ShardOutcome(rows=1), provenance={})
        attempt = self.artifacts.new_attempt(kind, fingerprint, attempt_id)  # type: ignore[arg-type]  # a fingerprint
        (attempt.data / "own").write_bytes(b"own")
        draft = ManifestDraft(
            kind=f"{kind}@1",
            payload=stage.payload,  # type: ignore[arg-type]  # plain JSON
            stats={},
            shards=(stage.shard,),
            inputs={"from": stage.inputs} if stage.inputs else {},
        )
        self.artifacts.commit(attempt, draft, epoch=1)
        self.store.tick()
        self.there[stage.place] = (stage, self.store.now_s - 2.0)

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
        for place in self._some(a):
            (pin if b % 3 else unpin)(self.store, *place)
            (self.pins.add if b % 3 else self.pins.discard)(place)

    def reserve(self, a: int, b: int) -> None:
        for place in self._some(a):
            if place in self.reserved:
                self.leases.release(self.reserved.pop(place), forget=bool(b % 2))
            elif lease := self.leases.acquire(f"artifact:{place[1]}"):
                self.reserved[place] = lease

    def look(self, _a: int, _b: int) -> None:
        self.told = unneeded_artifacts(
            self.artifacts,
            self.database,
            now_s=self.store.now_s,
            older_than_s=AGE_S,
            is_registered=lambda kind: kind == MODEL and self.registered,
        )
        young = {place for place, (_, at_s) in self.there.items() if at_s > self.store.now_s - AGE_S}
        models = {place for place in self.there if place[0] == MODEL and self.registered}
        expected = set(self.there) - self._closed(self._claimed() | young | models)
        assert {(one.stage_kind, one.fingerprint) for one in self.told} == expected

    def give_up(self, _a: int, _b: int) -> None:
        """What was told some time ago."""
        gone = give_up(self.artifacts, self.database, self.told, reason="nobody needs it")
        places = {(one.stage_kind, one.fingerprint) for one in gone}
        assert not places & self._closed(self._claimed())
        self.num_given_up += len(places)
        self.num_spared += len(self.told) - len(places)
        self.told = []
        for place in places:
            self.there.pop(place, None)

    # The model.

    def _some(self, a: int) -> list[Place]:
        return sorted(self.there)[a % len(self.there) :][:1] if self.there else []

    def _claimed(self) -> set[Place]:
        newest = {run.recipe: run for run in self.runs}
        wanted = [run for run in self.runs if run.is_open or newest[run.recipe] is run]
        return {stage.place for run in wanted for stage in run.stages} | self.pins | set(self.reserved)

    def _closed(self, places: set[Place]) -> set[Place]:
        found = {place for place in places if place in self.there}
        parents = {fingerprint for place in found for fingerprint in self.there[place][0].inputs}
        more = {place for place in self.there if place[1] in parents}
        return found if more <= found else self._closed(found | more)

    def check(self) -> None:
        """What the model has is there and whole, with its shard; nothing else is there."""
        stored = {(one.manifest.stage_kind, str(one.manifest.fingerprint)): one for one in self.artifacts.all()}
        assert set(stored) == set(self.there)
        for kind, fingerprint in stored:
            assert self.artifacts.verify(kind, fingerprint) == []
            assert self.ledger.find(kind, self.there[kind, fingerprint][0].shard) is not None


@contextmanager
def opened() -> Iterator[World]:
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            yield world
        finally:
            world.history.close()
            world.database.close()


WEIGHTS = {
    "start": 8,
    "commit": 10,
    "end": 12,
    "wait": 8,
    "pin": 2,
    "reserve": 1,
    "register": 1,
    "look": 8,
    "give_up": 4,
}


def happenings(world: World, seed: int) -> None:
    rng = random.Random(seed)
    for name in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=80):
        getattr(world, name)(rng.randrange(12), rng.randrange(12))  # the names are those of `WEIGHTS`
        if name == "give_up":
            world.check()
    world.check()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32))
def test_in_no_order_is_anything_given_up_that_is_needed(seed: int) -> None:
    with opened() as world:
        happenings(world, seed)


def test_the_orders_that_are_tried_give_up_much_and_spare_some() -> None:
    given_up = spared = 0
    for seed in range(8):
        with opened() as world:
            happenings(world, seed)
            given_up, spared = given_up + world.num_given_up, spared + world.num_spared
    assert given_up > 10
    assert spared > 0


def test_what_is_claimed_after_the_question_stays_with_what_it_was_made_from() -> None:
    story = [
        ("start", 2, 9),
        ("commit", 0, 1),
        ("end", 0, 0),
        ("start", 2, 0),
        ("end", 0, 0),
        *[("wait", 0, 0)] * 4,
    ]
    with opened() as world:
        for name, a, b in story:
            getattr(world, name)(a, b)
        world.look(0, 0)
        assert len(world.told) == 2
        world.pin(0, 1)  # the later of the two
        assert {kind for kind, _ in world.pins} == {"mix"}
        world.give_up(0, 0)
        assert len(world.there) == 2
        world.pin(0, 0)
        world.look(0, 0)
        world.give_up(0, 0)
        assert world.there == {}
        world.check()
