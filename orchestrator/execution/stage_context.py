"""The context that a stage's `run` receives: its inputs, an empty output folder, and the durable shard map."""

import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.artifact import JSON, Artifact, FileEntry
from orchestrator.artifacts.attempt_guard import AttemptGuard
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.node_inputs import StoredInputs
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.artifacts.takedowns import Marks, Takedown, all_marks
from orchestrator.artifacts.uses import record_use
from orchestrator.attempt_id import AttemptId
from orchestrator.backends.objects import is_key
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.documents.suggestions import expectation
from orchestrator.errors import FencedError, StageCodeError, StoreError
from orchestrator.logs.worker_log import WorkerLogs
from orchestrator.planning.plan import PlannedStage
from orchestrator.retention.failed_output import findings_folder
from orchestrator.shard_map.map_settings import MapSettings, MapTools
from orchestrator.shard_map.map_shards import map_shards
from orchestrator.shard_map.worker_pool import IdleWorkers
from orchestrator.shards import Shard, ShardRecord, ShardWorker
from orchestrator.stage import E, Execution, Resources, RetryPolicy, Tracker
from orchestrator.store.attempt_folder import AttemptFolder
from orchestrator.store.copies.node_files import NodeFiles

log = logging.getLogger(__name__)

FENCE_POLL_S = 10.0  # between two looks whether the attempt was aborted elsewhere
ADOPT_GUARD_S = 1.0  # between two checks of the guard: adopting writes into the attempt's own folder only


def _nothing(_path: str) -> bool:
    return False


@dataclass(kw_only=True)
class AttemptContext:
    """`stage.StageContext` of one attempt."""

    planned: PlannedStage
    attempt: AttemptId
    folder: AttemptFolder
    scratch: Path
    worker_logs: WorkerLogs
    artifacts_by_slot: Mapping[str, Sequence[Artifact]]
    tracker: Tracker
    checkpoints: StoredCheckpoints
    cluster: Cluster
    ledger: ShardLedger
    is_stop_requested: Callable[[], bool]
    takedowns: Sequence[Takedown] = ()
    memory_halvings: int = 0
    avoided_nodes: frozenset[str] = frozenset()
    idle_workers: IdleWorkers = field(default_factory=IdleWorkers)
    made_shards: bool = False  # this attempt recorded a shard that did not exist before
    facts: dict[str, JSON] = field(default_factory=dict)  # of `record_provenance`
    evidence: dict[str, Path] = field(default_factory=dict)  # of `keep_if_failed`
    shards: dict[str, StoredShard] = field(default_factory=dict)  # all results of its maps, by fingerprint
    fenced: FencedError | None = None  # found by `stop_requested`: why the attempt writes nothing more
    _guard_asked_at: float = float("-inf")  # by `adopt`
    _fence_read_at: float = field(default_factory=time.monotonic)  # for `stop_requested`
    _look: threading.Thread | None = None

    @property
    def stage_id(self) -> str:
        return self.planned.id

    @property
    def run_id(self) -> str:
        return self.attempt.run_id

    @property
    def attempt_id(self) -> str:
        return self.attempt.name

    @property
    def fingerprint(self) -> str:
        return self.planned.fingerprint

    @property
    def output(self) -> Path:
        return self.folder.data

    @property
    def resources(self) -> Resources:
        return self.planned.spec.resources

    @property
    def retry(self) -> RetryPolicy:
        return self.planned.spec.retry

    def execution(self, settings: type[E]) -> E:
        found = self.planned.spec.execution
        if type(found) is Execution:
            return settings()
        if not isinstance(found, settings):
            raise TypeError(
                f"{self.stage_id}: stage kind {self.planned.spec.kind.name!r} has the execution settings "
                f"{type(found).__name__}, not {settings.__name__}; declare them in its StageKind"
            )
        return found

    def record_provenance(self, facts: Mapping[str, JSON]) -> None:
        self.facts.update(facts)

    def keep_if_failed(self, files: Mapping[str, Path]) -> None:
        self.evidence.update(files)

    @property
    def findings(self) -> Path:
        return findings_folder(self.checkpoints.cache, self.attempt.name)

    @property
    def tombstones(self) -> Marks:
        return all_marks(self.takedowns)

    @property
    def source_digests(self) -> Mapping[str, str]:
        sources = self.planned.payload.get("sources")
        return {name: str(sha256) for name, sha256 in sources.items()} if isinstance(sources, dict) else {}

    def input(self, slot: str) -> Artifact:
        found = self.inputs(slot)
        if len(found) != 1:
            raise StageCodeError(
                f"{self.stage_id}: context.input({slot!r}): the slot holds {len(found)} artifacts in this recipe, "
                f"expected exactly 1; read a slot that is optional or `many` with context.inputs({slot!r})"
            )
        return found[0]

    def inputs(self, slot: str) -> Sequence[Artifact]:
        kind = self.planned.spec.kind
        if slot not in kind.inputs:
            raise StageCodeError(
                f"{self.stage_id}: stage kind {kind.name!r} declares no input slot {slot!r}; "
                f"{expectation(str(slot), kind.inputs.keys())}"
            )
        return self.artifacts_by_slot.get(slot, ())

    @property
    def node_inputs(self) -> StoredInputs:
        kind, config = self.planned.spec.kind, self.planned.spec.config
        whole: list[NodeFiles] = []
        streamed: list[NodeFiles] = []
        for slot, artifacts in self.artifacts_by_slot.items():
            is_streamed = kind.inputs[slot].streamed or _nothing
            for artifact in artifacts:
                files = {entry.path: entry for entry in artifact.manifest.files}
                for chosen, of_slot in ((False, whole), (True, streamed)):
                    named = {name: entry for name, entry in files.items() if is_streamed(name) is chosen}
                    if named:
                        of_slot.append(self._node_files(artifact, named))
        return StoredInputs(
            store=self.folder.store,
            store_id=self.checkpoints.store_id,
            whole=tuple(whole),
            streamed=tuple(streamed),
            paths={name: path for name, path in (kind.needs(config) if kind.needs else {}).items() if path},
        )

    def _node_files(self, artifact: Artifact, files: Mapping[str, FileEntry]) -> NodeFiles:
        store, cache = self.folder.store, self.ledger.cache
        root = store.local("") or cache
        return NodeFiles(store, cache, artifact.path.relative_to(root).as_posix(), files, self.attempt.name)

    @property
    def guard(self) -> AttemptGuard:
        return AttemptGuard(
            store=self.folder.store,
            key=self.folder.key,
            attempt=self.attempt,
            payload=self.planned.payload,
            known_takedowns=tuple(takedown.id for takedown in self.takedowns),
            store_id=self.checkpoints.store_id,
        )

    def stop_requested(self) -> bool:
        self._look_for_fence()
        return self.fenced is not None or self.is_stop_requested()

    def _look_for_fence(self) -> None:
        """See now and then whether the attempt was aborted elsewhere, so that its work is of no use any more.

        In the background: a store that hangs must not hold up the caller, which looks for hanging workers.
        """
        is_looking = self._look is not None and self._look.is_alive()
        if self.fenced is not None or is_looking or time.monotonic() - self._fence_read_at < FENCE_POLL_S:
            return
        self._fence_read_at = time.monotonic()
        self._look = threading.Thread(target=self._read_fence, name="fence", daemon=True)
        self._look.start()

    def _read_fence(self) -> None:
        try:
            self.guard.check()
        except FencedError as error:
            self.fenced = error
        except StoreError as error:
            log.warning("%s: whether another attempt took over is unknown: %s", self.stage_id, error)

    @property
    def plain_training_workers(self) -> bool:
        return self.cluster.has_plain_training_workers(gpus=self.resources.gpus)

    def connect_ray(self) -> None:
        self.cluster.connect()

    def map_shards(
        self,
        worker: ShardWorker,
        shards: Sequence[Shard],
        *,
        label: str,
        identity: Mapping[str, JSON],
        unit: str = "items",
    ) -> list[ShardRecord]:
        kind = self.planned.spec.kind
        settings = MapSettings(
            attempt=self.attempt,
            stage_kind=kind.name,
            version=kind.version,
            label=label,
            identity=identity,
            resources=self.resources,
            retry=self.retry,
            scratch=self.scratch,
            logs=self.worker_logs,
            memory_halvings=self.memory_halvings,
            unit=unit,
            takedowns=self.takedowns,
            guard=self.guard,
        )
        tools = MapTools(
            cluster=self.cluster,
            ledger=self.ledger,
            tracker=self.tracker,
            stop_requested=self.stop_requested,
            record_use=self._record_use,
            on_recorded=self._note_recorded,
            rng=random.Random(self.attempt_id),
            idle_workers=self.idle_workers,
        )
        finished = map_shards(worker, shards, settings, tools)
        self.shards.update((entry.stored.key.fingerprint, entry.stored) for entry in finished)
        return [self.ledger.to_record(entry.stored, shard=entry.name, reused=entry.reused) for entry in finished]

    def adopt(self, record: ShardRecord, names: Mapping[str, str] | None = None) -> None:
        if time.monotonic() - self._guard_asked_at >= ADOPT_GUARD_S:
            self.guard.check()
            self._guard_asked_at = time.monotonic()
        where = f"{self.stage_id}: context.adopt of shard {record.shard!r}"
        stored = self.shards.get(record.fingerprint)
        if stored is None:
            raise StageCodeError(f"{where}: not a result of context.map_shards in this attempt")
        entries = {entry.path: entry for entry in record.files}
        for source, name in ({path: path for path in entries} if names is None else names).items():
            if source not in entries:
                raise StageCodeError(f"{where}: it has no file {source!r}; {expectation(source, entries)}")
            if not is_key(name):
                raise StageCodeError(f"{where}: found {name!r}, expected a relative path below the artifact")
            self.folder.link(stored.key_of(source), name, dataclasses.replace(entries[source], path=name))

    def _record_use(self, shards: Sequence[str]) -> None:
        record_use(self.folder.store, self.attempt, self.folder.key, shards=shards)

    def _note_recorded(self, _stored: StoredShard) -> None:
        self.made_shards = True
