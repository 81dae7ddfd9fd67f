"""A stage's context for tests of the training driver: folders, a store for checkpoints, and what was tracked."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.attempt_id import AttemptId
from orchestrator.logs.run_logs import RunLogs
from orchestrator.logs.worker_log import WorkerLogs
from orchestrator.stage import Resources, RetryPolicy
from orchestrator.store.store import open_store
from orchestrator.testing import FolderInputs
from stages.training.config import TrainingExecution


@dataclass
class Tracked:
    metrics: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    done: list[tuple[int, int]] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.metrics.append((step, metrics))

    def progress(self, done: int, total: int, unit: str) -> None:
        self.done.append((done, total))

    def log_event(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.events.append((kind, dict(fields)))


@dataclass
class TrackedEvents(Tracked):
    timed: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)  # (seconds since 1970, kind, fields)

    def log_event(self, kind: str, fields: Mapping[str, Any]) -> None:
        super().log_event(kind, fields)
        self.timed.append((time.time(), kind, dict(fields)))


@dataclass
class TrainingContext:
    folder: Path
    resources: Resources = field(default_factory=Resources)
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(checkpoint_every=5))
    plain_training_workers: bool = True
    tracker: Tracked = field(default_factory=Tracked)
    stage_id: str = "toy"
    attempt_id: str = "run-toy-1-1"
    fingerprint: str = "a" * 64
    stop: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    settings: TrainingExecution = field(default_factory=TrainingExecution)
    avoided_nodes: frozenset[str] = frozenset()

    def execution(self, settings: type[Any]) -> Any:
        return self.settings

    def record_provenance(self, facts: Mapping[str, Any]) -> None:
        self.facts.update(facts)

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def findings(self) -> Path:
        return self.folder / "findings"

    @property
    def output(self) -> Path:
        (self.folder / "output").mkdir(parents=True, exist_ok=True)
        return self.folder / "output"

    @property
    def node_inputs(self) -> FolderInputs:
        return FolderInputs()

    @property
    def worker_logs(self) -> WorkerLogs:
        return RunLogs(store=open_store(self.folder / "store"), state=self.folder, run_id="run").of_workers(
            self.attempt_id, self.scratch
        )

    @property
    def checkpoints(self) -> StoredCheckpoints:
        return StoredCheckpoints(
            store=open_store(self.folder / "store"),
            cache=self.folder / "cache",
            key=ArtifactKey("toy", "a" * 64),
            attempt=AttemptId(run_id="run", stage_id=self.stage_id, epoch=1, name=self.attempt_id),
        )

    def stop_requested(self) -> bool:
        return self.stop
