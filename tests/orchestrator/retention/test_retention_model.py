"""Retracting unneeded artifacts, in any order with runs, pins and makers, compared with a plain model."""

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

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.history.attempts import StageRow
from orchestrator.history.database import Database
from orchestrator.history.events import RunState
from orchestrator.history.leases import Lease, Leases
from orchestrator.history.run_store import RunStore
from orchestrator.history.schema import runs
from orchestrator.identity import fingerprint_of
from orchestrator.retention.pins import pin, unpin
from orchestrator.retention.unneeded import UnneededArtifact, retract_unneeded, unneeded_artifacts
from orchestrator.shards import ShardOutcome
from orchestrator.store.objects import StoredObject
from tests.orchestrator.conftest import MemoryStore

AGE_S = 5.0
STAGES = ("read", "mix", "model", "report")  # each is made from the one before
MODEL = "model"  # can be registered


@dataclass
class AgingStore(MemoryStore):
    """Knows when each object was written, by a clock that the test sets."""

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


class World:
    """The real store and database, and the model that they are compared with."""

    def __init__(self, folder: Path) -> None:
        self.store = AgingStore()
        self.artifacts = ArtifactStore(self.store, folder / "cache")
        self.ledger = ShardLedger(self.store, folder / "cache")
        self.database = Database(str(folder / "index.db"))
        self.history, self.leases = RunStore(self.database), Leases(self.database)
        self.numbers = count()
        self.runs: list[Run] = []
        self.committed: dict[ArtifactKey, tuple[Stage, float]] = {}  # with the time of its commit
        self.pins: set[ArtifactKey] = set()
        self.reserved: dict[ArtifactKey, Lease] = {}
        self.unneeded: list[UnneededArtifact] = []
        self.registered = False
        self.num_retracted = self.num_spared = 0

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
        draft = ManifestDraft(
            kind=f"{stage.key.stage_kind}@1",
            payload=stage.payload,  # type: ignore[arg-type]  # plain JSON
            metrics={},
            shards=(stage.shard,),
            inputs={"from": stage.inputs} if stage.inputs else {},
        )
        self.artifacts.commit(attempt, draft, epoch=1)
        self.store.tick()
        self.committed[stage.key] = (stage, self.store.now_s - 2.0)

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
            self.database,
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
        retracted = retract_unneeded(self.artifacts, self.database, self.unneeded, reason="nobody needs it")
        keys = {artifact.key for artifact in retracted}
        assert not keys & self._closed(self._claimed())
        self.num_retracted += len(keys)
        self.num_spared += len(self.unneeded) - len(keys)
        self.unneeded = []
        for key in keys:
            self.committed.pop(key, None)

    # The model.

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

    def check(self) -> None:
        """The store has exactly the artifacts of the model, undamaged and with their shards."""
        stored = {artifact.manifest.key for artifact in self.artifacts.all()}
        assert stored == set(self.committed)
        for key in stored:
            assert self.artifacts.verify(key) == []
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
    "commit": 10,
    "end": 12,
    "wait": 8,
    "pin": 2,
    "reserve": 1,
    "register": 1,
    "find_unneeded": 8,
    "retract_unneeded": 4,
}


def run_actions(world: World, seed: int) -> None:
    rng = random.Random(seed)
    for name in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=80):
        getattr(world, name)(rng.randrange(12), rng.randrange(12))  # the names are those of `WEIGHTS`
        if name == "retract_unneeded":
            world.check()
    world.check()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32))
def test_no_order_of_actions_retracts_a_needed_artifact(seed: int) -> None:
    with open_world() as world:
        run_actions(world, seed)


def test_the_tried_orders_retract_many_artifacts_and_spare_some() -> None:
    retracted = spared = 0
    for seed in range(8):
        with open_world() as world:
            run_actions(world, seed)
            retracted, spared = retracted + world.num_retracted, spared + world.num_spared
    assert retracted > 10
    assert spared > 0


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
