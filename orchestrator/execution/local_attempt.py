"""Runs one attempt in this process: makes its folder, calls the stage's `run`, commits the artifact.

Used by the driver and by the stage driver of a job on a cluster; needs the store but no database.
"""

import logging
import platform
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.artifact import JSON, Artifact
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.stage_records import newest_checkpoint_step
from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.artifacts.uses import record_use
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.errors import CancelledError, GateError, NothingKeptError, OrchestratorError, StageCodeError
from orchestrator.execution.attempt_log import log_result, log_start
from orchestrator.execution.gates import broken_gates
from orchestrator.execution.stage_checks import CheckedTracker, check_inputs_untouched, checked_metrics
from orchestrator.execution.stage_context import AttemptContext
from orchestrator.identity import config_to_json, to_json
from orchestrator.installation.version import version_text
from orchestrator.learning import PROVENANCE_LEARNED
from orchestrator.logs.worker_log import WorkerLogs
from orchestrator.planning.plan import PlannedStage
from orchestrator.planning.stage_identity import PROVENANCE_CODE
from orchestrator.plugins.kind_words import headline_of
from orchestrator.plugins.loading import is_file_target
from orchestrator.retention.failed_output import failed_folder, keep_evidence
from orchestrator.stage import Slot, StageKind, Tracker
from orchestrator.store.attempt_folder import AttemptFolder
from orchestrator.store.copies.copy_locks import release
from orchestrator.store.output_checks import output_problem
from orchestrator.store.store_identity import read_identity

log = logging.getLogger(__name__)

PROVENANCE_VERSION = "version"  # key of a manifest's provenance: version and commit of this package
RECORDED_PACKAGES = ("illume-orchestrator", "ray", "torch", "transformers", "diffusers", "numpy", "pyarrow", "pillow")


@dataclass(frozen=True, kw_only=True)
class AttemptRequest:
    """What an attempt is to run, and with which inputs."""

    planned: PlannedStage
    inputs: Mapping[str, Sequence[PlannedStage]]  # by slot
    attempt: AttemptId
    memory_halvings: int = 0
    avoided_nodes: frozenset[str] = frozenset()  # names


@dataclass(kw_only=True)
class LocalAttempt:
    """One attempt in this process; call `run` once, and `close` at the end."""

    request: AttemptRequest
    artifacts: ArtifactStore
    ledger: ShardLedger
    cluster: Cluster
    tracker: Tracker
    worker_logs: WorkerLogs
    scratch: Path  # of this attempt; deleted by `close`
    is_stop_requested: Callable[[], bool]
    _folder: AttemptFolder | None = None
    _context: AttemptContext | None = None
    _step_before: int | None = None
    _started_s: float = field(default_factory=time.time)

    def run(self, on_started: Callable[[], None]) -> Artifact:
        """Run the stage and commit its artifact. Calls `on_started` once the inputs are open.

        Raises: whatever the stage raises; CancelledError; FencedError if it was aborted elsewhere.
        """
        request = self.request
        planned, attempt = request.planned, request.attempt
        store = self.artifacts.store
        folder = self._folder = self.artifacts.new_attempt(planned.key, attempt.name, attempt=attempt)
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._step_before = newest_checkpoint_step(store, planned.key)
        inputs = self._open_inputs()
        takedowns = read_takedowns(store)
        on_started()
        log_start(
            planned,
            attempt,
            inputs,
            memory_halvings=request.memory_halvings,
            avoided_nodes=request.avoided_nodes,
        )
        identity = read_identity(store)
        context = self._context = AttemptContext(
            planned=planned,
            attempt=attempt,
            folder=folder,
            scratch=self.scratch,
            worker_logs=self.worker_logs,
            artifacts_by_slot=inputs,
            tracker=CheckedTracker(tracker=self.tracker, stage_id=planned.id),
            checkpoints=StoredCheckpoints(
                store=store,
                cache=self.artifacts.cache,
                key=planned.key,
                attempt=attempt,
                payload=planned.payload,
                known_takedowns=tuple(takedown.id for takedown in takedowns),
                store_id=identity.store_id if identity else "",
            ),
            cluster=self.cluster,
            ledger=replace(self.ledger, holder=attempt.name),
            is_stop_requested=self.is_stop_requested,
            takedowns=takedowns,
            memory_halvings=request.memory_halvings,
            avoided_nodes=request.avoided_nodes,
        )
        if planned.spec.kind.plugin is not None and is_file_target(planned.spec.kind.plugin.target):
            self.cluster.send_by_value(planned.spec.kind.run.__module__)
        try:
            metrics = self._metrics(context)
        except (NothingKeptError, GateError) as error:  # of what it found: that is what people want to see then
            kept = keep_evidence(context.evidence, failed_folder(self.artifacts.cache, attempt.name))
            raise type(error)(f"{error}{kept}") from error
        draft = self._draft(context, inputs, metrics)
        artifact = self.artifacts.commit(folder, draft, epoch=attempt.epoch, is_opened=False)
        log_result(planned, attempt, artifact, metrics, seconds=time.time() - self._started_s)
        return artifact

    def _metrics(self, context: AttemptContext) -> dict[str, float]:
        """What `run` of the stage returns, checked. Raises: whatever it raises; GateError."""
        planned = self.request.planned
        with context.idle_workers:
            try:
                returned: object = planned.spec.kind.run(planned.spec.config, context)
            except CancelledError:
                if context.fenced is not None:  # nobody asked for this stop
                    raise context.fenced from None
                raise
        metrics = self._checked(returned, context)
        self._check_gates(metrics)
        return metrics

    def progressed(self) -> bool:
        """True if the attempt committed shards or a checkpoint that the next attempt can reuse."""
        if self._context is None:
            return False
        planned = self.request.planned
        step = newest_checkpoint_step(self.artifacts.store, planned.key)
        return self._context.made_shards or (step or -1) > (self._step_before or -1)

    def abort(self, reason: str) -> bool:
        """Abort the attempt and delete its files. False if it was committed before, or the store is away."""
        if self._folder is None:
            return True
        try:
            return self.artifacts.abort(self._folder, reason=reason)
        except OrchestratorError as error:  # the garbage collector aborts it later
            log.warning("%s: its files could not be deleted: %s", self.request.attempt, error)
            return False

    def close(self) -> None:
        """Delete the scratch folder, and let go of the local copies that the attempt has read."""
        release(self.artifacts.cache, self.request.attempt.name)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _checked(self, returned: object, context: AttemptContext) -> dict[str, float]:
        """The metrics. Raises: StageCodeError: what the stage returned or wrote cannot be committed."""
        planned = self.request.planned
        metrics = checked_metrics(f"{planned.id}: returned by `run` of {planned.spec.kind.name!r}", returned)
        problem = output_problem(context.output)
        if problem:
            raise StageCodeError(f"{planned.id}: {problem}")
        check_inputs_untouched(planned.id, context.artifacts_by_slot, planned.spec.kind.inputs)
        if not context.folder.has_links and not any(context.output.iterdir()):
            log.warning("%s: wrote no file below `context.output`, so its artifact is empty", planned.id)
        return metrics

    def _check_gates(self, metrics: Mapping[str, float]) -> None:
        planned = self.request.planned
        errors, warnings = broken_gates(planned.spec, metrics)
        for sentence in warnings:
            log.warning("%s: %s", planned.id, sentence)
            self.tracker.log_event("gate_broken", {"message": sentence})
        if errors:
            headline = headline_of(planned.spec.kind, metrics)
            found = f" ({headline})" if headline else ""
            raise GateError(
                f"{planned.id}: {'; '.join(errors)}{found}. It is not committed; its shards and checkpoints are kept, "
                "so running again with another bound reuses them"
            )

    def _open_inputs(self) -> dict[str, list[Artifact]]:
        """Raises: CorruptArtifactError: an input is gone or damaged."""
        used = [stage.key for stages in self.request.inputs.values() for stage in stages]
        if used:
            record_use(self.artifacts.store, self.request.attempt, self.request.planned.key, artifacts=used)
        reading = replace(self.artifacts, holder=self.request.attempt.name)
        slots = self.request.planned.spec.kind.inputs
        return {
            slot: [reading.open(stage.key, only=self._read_at_once(slots[slot])) for stage in stages]
            for slot, stages in self.request.inputs.items()
        }

    def _read_at_once(self, slot: Slot) -> Callable[[str], bool]:
        """Which files of an input are fetched before the stage runs; of a local store all are looked at."""
        streamed = None if self.artifacts.store.is_local else slot.streamed
        return lambda path: streamed is None or not streamed(path)

    def _draft(
        self, context: AttemptContext, inputs: Mapping[str, Sequence[Artifact]], metrics: Mapping[str, float]
    ) -> ManifestDraft:
        planned = self.request.planned
        code: dict[str, JSON] = {"digest": planned.code.digest, "files": dict(planned.code.files)}
        versions: dict[str, JSON] = {name: _version(name) for name in RECORDED_PACKAGES}
        return ManifestDraft(
            kind=planned.spec.kind.output,
            payload=planned.payload,
            metrics=dict(metrics),
            shards=tuple(context.shards),
            known_takedowns=tuple(takedown.id for takedown in context.takedowns),
            inputs={slot: tuple(artifact.fingerprint for artifact in found) for slot, found in inputs.items() if found},
            provenance={
                **self.request.attempt.provenance,
                "epoch": self.request.attempt.epoch,
                "host": socket.gethostname(),
                "python": platform.python_version(),
                PROVENANCE_VERSION: version_text(),
                "packages": versions,
                "seconds": round(time.time() - self._started_s, 3),
                "resources": to_json(planned.spec.resources),
                "execution": config_to_json(planned.spec.execution),
                **({"facts": dict(context.facts)} if context.facts else {}),
                PROVENANCE_CODE: code,
                **_declared(planned.spec.kind),
            },
        )


def _declared(kind: StageKind[Any]) -> dict[str, JSON]:
    """What must be known about an artifact even where its stage kind is not."""
    found: dict[str, JSON] = {}
    if kind.plugin is not None:
        found["plugin"] = to_json(kind.plugin)
    if kind.learned is not None:
        found[PROVENANCE_LEARNED] = {"from_samples": kind.learned.from_samples, "is_model": kind.learned.is_model}
    return found


@lru_cache(maxsize=len(RECORDED_PACKAGES))  # reading it takes 2 ms, and it stays as it is in this process
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
