"""A stage's context over plain folders: tests a stage's `run` without a store, a database or Ray.

    def test_words_are_shouted(tmp_path):
        (tmp_path / "said").mkdir()
        (tmp_path / "said" / "words.txt").write_text("hello")
        context = folder_context(SHOUT, tmp_path / "work", inputs={"words": tmp_path / "said"})
        metrics = run_stage(SHOUT, ShoutConfig(times=2), context)
        assert (context.output / "words.txt").read_text() == "HELLOHELLO"

What it does not show: retries, the quarantine of items that crash their worker, resuming, the identity of the stage.
"""

import json
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.artifact import JSON, Artifact, Chunks, FileEntry, Fingerprint, Manifest
from orchestrator.backends.objects import file_digest
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.errors import StageCodeError
from orchestrator.identity import canonical_json, fingerprint_of
from orchestrator.logs.run_logs import RunLogs
from orchestrator.logs.worker_log import WorkerLogs
from orchestrator.shard_map.map_shards import shard_payload
from orchestrator.shards import Shard, ShardInput, ShardRecord, ShardWorker
from orchestrator.stage import C, Checkpoint, E, Execution, InputFiles, Resources, RetryPolicy, StageContext, StageKind
from orchestrator.store.attempt_folder import files_below
from orchestrator.store.store import open_store

FilledSlot = Path | Artifact | Sequence[Path | Artifact]
META_FILE = "meta.json"


@dataclass(kw_only=True)
class RecordingTracker:
    """`stage.Tracker` that keeps what it is told."""

    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # (step, values)
    steps: list[tuple[int, int, str]] = field(default_factory=list)  # (done, total, unit)
    events: list[tuple[str, dict[str, JSON]]] = field(default_factory=list)  # (kind, fields)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.metrics.append((step, dict(metrics)))

    def progress(self, done: int, total: int, unit: str) -> None:
        self.steps.append((done, total, unit))

    def log_event(self, kind: str, fields: Mapping[str, JSON]) -> None:
        self.events.append((kind, dict(fields)))


@dataclass(frozen=True)
class FolderInputs:
    """`stage.NodeInputs` of folders on this machine: nothing is fetched."""

    streamed: tuple[InputFiles, ...] = ()
    cache_bytes: int = 2**62

    def open(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class FolderCheckpoints:
    """`stage.Checkpoints` below a folder, one folder per step. Can be pickled."""

    folder: Path

    def take_over(self) -> None:
        """There is no other attempt."""

    def open(self, step: int, digest: str) -> Checkpoint:
        path = self._path(step)
        meta = json.loads((path / META_FILE).read_text(encoding="utf-8"))
        return Checkpoint(step=step, path=path / "files", meta=meta, digest=digest)

    def latest(self) -> Checkpoint | None:
        steps = self._steps()
        return self.open(steps[-1], f"step {steps[-1]}") if steps else None

    def commit(self, step: int, folder: Path, meta: Mapping[str, JSON]) -> None:
        if not self._path(step).exists():
            shutil.copytree(folder, self._path(step) / "files")
            (self._path(step) / META_FILE).write_text(canonical_json(dict(meta)), encoding="utf-8")

    def begin(self, step: int) -> str:
        return "" if self._path(step).exists() else f"draft-{uuid.uuid4().hex}"

    def write_part(self, step: int, draft: str, name: str, chunks: Chunks, size: int) -> FileEntry:
        path = self.folder.with_name(f"{self.folder.name}-{draft}") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(chunks()))
        digest = file_digest(path)
        return FileEntry(path=name, bytes=digest.bytes, sha256=digest.sha256)

    def conclude(self, step: int, draft: str, files: Sequence[FileEntry], meta: Mapping[str, JSON]) -> bool:
        written = self.folder.with_name(f"{self.folder.name}-{draft}")
        self.commit(step, written, meta)
        shutil.rmtree(written)
        return True

    def prune(self, keep: int, needed: int | None = None, best: int | None = None) -> None:
        if keep < 1:
            raise ValueError(f"keep: found {keep}, expected at least 1")
        steps = self._steps()
        kept = {*steps[-keep:], *[step for step in steps if needed is not None and step <= needed][-1:], best}
        self._delete(step for step in steps if step not in kept)

    def retract_after(self, step: int) -> None:
        self._delete(later for later in self._steps() if later > step)

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:012d}"

    def _steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.iterdir()) if self.folder.exists() else []

    def _delete(self, steps: Iterable[int]) -> None:
        for step in steps:
            shutil.rmtree(self._path(step))


@dataclass(kw_only=True)
class FolderContext:
    """`stage.StageContext` below a folder; made by `folder_context`."""

    kind: StageKind[Any]
    folder: Path
    artifacts_by_slot: Mapping[str, Sequence[Artifact]]
    resources: Resources
    retry: RetryPolicy
    tombstones: Mapping[str, frozenset[str]]
    memory_halvings: int
    stage_id: str
    settings: Execution
    run_id: str = "test-run"
    attempt_id: str = "test-attempt"
    fingerprint: str = "0" * 64
    is_stop_requested: bool = False  # set it to see the stage stop
    plain_training_workers: bool = True  # trains in processes of this machine; False: with Ray Train
    tracker: RecordingTracker = field(default_factory=RecordingTracker)
    facts: dict[str, JSON] = field(default_factory=dict)  # recorded as provenance
    kept_if_failed: dict[str, Path] = field(default_factory=dict)
    source_digests: Mapping[str, str] = field(default_factory=dict)
    avoided_nodes: frozenset[str] = frozenset()
    cluster: Cluster = field(default_factory=Cluster)  # started only by a stage that asks for Ray

    def __post_init__(self) -> None:
        for path in (self.output, self.scratch):
            path.mkdir(parents=True)

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def findings(self) -> Path:
        return self.folder / "findings"

    @property
    def worker_logs(self) -> WorkerLogs:
        logs = RunLogs(store=open_store(self.folder / "store"), state=self.folder, run_id=self.run_id)
        logs.folder.mkdir(parents=True, exist_ok=True)
        return logs.of_workers(self.attempt_id, self.scratch)

    @property
    def checkpoints(self) -> FolderCheckpoints:
        return FolderCheckpoints(folder=self.folder / "checkpoints")

    def execution(self, settings: type[E]) -> E:
        if type(self.settings) is Execution:
            return settings()
        if not isinstance(self.settings, settings):
            raise TypeError(
                f"{self.stage_id}: stage kind {self.kind.name!r} has the execution settings "
                f"{type(self.settings).__name__}, not {settings.__name__}; declare them in its StageKind"
            )
        return self.settings

    @property
    def node_inputs(self) -> "FolderInputs":
        return FolderInputs()

    def record_provenance(self, facts: Mapping[str, JSON]) -> None:
        self.facts.update(facts)

    def keep_if_failed(self, files: Mapping[str, Path]) -> None:
        self.kept_if_failed.update(files)

    def input(self, slot: str) -> Artifact:
        found = self.inputs(slot)
        if len(found) != 1:
            raise StageCodeError(f"{self.stage_id}: slot {slot!r} holds {len(found)} artifacts, expected exactly 1")
        return found[0]

    def inputs(self, slot: str) -> Sequence[Artifact]:
        _check_slot(self.kind, slot, StageCodeError)
        return self.artifacts_by_slot.get(slot, ())

    def stop_requested(self) -> bool:
        return self.is_stop_requested

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
        """Run the worker over the shards here, one after the other. What it raises is raised here.

        Raises: ValueError: two shards have one name. TypeError: an identity, an item or a result is not plain JSON.
        """
        names = [shard.name for shard in shards]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.stage_id}: map {label!r}: two shards have one name; expected a name for each")
        run, records = worker.start(), list[ShardRecord]()
        for number, shard in enumerate(shards, start=1):
            output = self.folder / "shards" / label / shard.name
            output.mkdir(parents=True)
            outcome = run(ShardInput(name=shard.name, items=shard.items, work=shard.work, output=output))
            payload = shard_payload(
                shard, stage_kind=self.kind.name, version=self.kind.version, label=label, identity=identity
            )
            record = ShardRecord(
                shard=shard.name,
                fingerprint=fingerprint_of(payload),
                path=output,
                files=_entries(output),
                outcome=replace(outcome, result=json.loads(canonical_json(outcome.result))),
                reused=False,
            )
            records.append(record)
            self.tracker.progress(number, len(shards), unit)
        return records

    def adopt(self, record: ShardRecord, names: Mapping[str, str] | None = None) -> None:
        found = {entry.path for entry in record.files}
        for source, name in ({path: path for path in found} if names is None else names).items():
            if source not in found:
                raise StageCodeError(
                    f"{self.stage_id}: shard {record.shard} has no file {source!r}, only {sorted(found)}"
                )
            target = self.output / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(record.path / source, target)


def folder_context(
    kind: StageKind[Any],
    folder: Path,
    *,
    inputs: Mapping[str, FilledSlot] | None = None,
    resources: Resources | None = None,
    retry: RetryPolicy | None = None,
    tombstones: Mapping[str, frozenset[str]] | None = None,
    memory_halvings: int = 0,
    stage_id: str = "",
    execution: Execution | None = None,
) -> FolderContext:
    """A context for one call of `run_stage`, which writes below `folder`; the example is at the head of this module.

    `inputs`: for each slot a folder, an artifact, or a list of them; see `folder_artifact` for one with metrics. The
    stage's output is in `context.output`, its tracked metrics and events are in `context.tracker`.

    Raises: ValueError: a slot is unknown, empty, or holds too many artifacts; or `folder` was used before.
    """
    if (folder / "output").exists():
        raise ValueError(f"{folder}: found the output of another context; expected an unused folder for each")
    given = {slot: _artifacts(kind, slot, value) for slot, value in (inputs or {}).items()}
    for name, slot in kind.inputs.items():
        number = len(given.get(name, ()))
        if (slot.required and not number) or (number > 1 and not slot.many):
            expected = "one" if not slot.many else "at least one"
            raise ValueError(f"stage kind {kind.name!r}: slot {name!r} holds {number} artifacts, expected {expected}")
    return FolderContext(
        kind=kind,
        folder=folder,
        artifacts_by_slot=given,
        resources=resources or Resources(),
        retry=retry or RetryPolicy(),
        tombstones=tombstones or {},
        memory_halvings=memory_halvings,
        stage_id=stage_id or kind.name,
        settings=execution or kind.execution(),
    )


def run_stage(kind: StageKind[C], config: C, context: StageContext) -> dict[str, float]:
    """Call `kind.run`; returns its metrics.

    Raises:
        ValueError: the configuration is of another class, or a metric is not a number.
        StageCodeError: a metric is none of `kind.metric_names`, or `run` uses its context in a way that cannot work.
    """
    if not isinstance(config, kind.config):
        raise ValueError(f"{kind.name}: found a {type(config).__name__}, expected a {kind.config.__name__}")
    metrics = {name: float(value) for name, value in kind.run(config, context).items()}
    if kind.metric_names and not metrics.keys() <= kind.metric_names:
        unknown = ", ".join(sorted(metrics.keys() - kind.metric_names))
        raise StageCodeError(
            f"{kind.name}: returned the metrics {unknown}, which are not in `metric_names` of the kind"
        )
    return metrics


def folder_artifact(
    folder: Path, kind: str, *, metrics: Mapping[str, float] | None = None, stage_kind: str = "test"
) -> Artifact:
    """An artifact of the kind `kind`, for example "dataset@1", whose files are those below `folder`.

    Its identity is that of its files. Raises: StoreError: a file of a kind that an artifact cannot hold.
    """
    files = _entries(folder)
    payload: dict[str, JSON] = {"kind": kind, "files": [[entry.path, entry.sha256] for entry in files]}
    fingerprint = fingerprint_of(payload)
    manifest = Manifest(
        kind=kind,
        stage_kind=stage_kind,
        fingerprint=Fingerprint(fingerprint),
        payload=payload,
        files=files,
        metrics=dict(metrics or {}),
    )
    return Artifact(path=folder, manifest=manifest, manifest_sha256=fingerprint)


def _artifacts(kind: StageKind[Any], slot: str, value: FilledSlot) -> tuple[Artifact, ...]:
    _check_slot(kind, slot, ValueError)
    found = (value,) if isinstance(value, Path | Artifact) else tuple(value)
    return tuple(folder_artifact(item, kind.inputs[slot].kind) if isinstance(item, Path) else item for item in found)


def _check_slot(kind: StageKind[Any], slot: str, error: type[Exception]) -> None:
    if slot not in kind.inputs:
        known = ", ".join(kind.inputs) or "none"
        raise error(f"stage kind {kind.name!r} has no input slot {slot!r}; its slots: {known}")


def _entries(folder: Path) -> tuple[FileEntry, ...]:
    digests = ((name, file_digest(folder / name)) for name in files_below(folder))
    return tuple(FileEntry(path=name, bytes=digest.bytes, sha256=digest.sha256) for name, digest in digests)
