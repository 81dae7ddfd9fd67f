"""The work of one attempt where it is done: its folder, the call of the stage's `run`, the commit.

In the driver's process, or in that of a stage driver on a cluster; needs the store and no database.
"""

import logging
import platform
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator.artifact import JSON, Artifact
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.stage_records import newest_checkpoint_step
from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.errors import GateError, OrchestratorError
from orchestrator.execution.gates import broken_gates
from orchestrator.execution.stage_context import AttemptContext, AttemptPlace
from orchestrator.planning.plan import PlannedStage
from orchestrator.planning.stage_identity import PROVENANCE_CODE
from orchestrator.stage import Tracker
from orchestrator.store.attempt_folder import AttemptFolder

log = logging.getLogger(__name__)

RECORDED_PACKAGES = ("illume-orchestrator", "ray", "torch", "transformers", "diffusers", "numpy", "pyarrow", "pillow")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What an attempt has to do, and who it is."""

    planned: PlannedStage
    inputs: Mapping[str, Sequence[PlannedStage]]  # by slot
    run_id: str
    attempt_id: str
    epoch: int
    memory_halvings: int = 0


@dataclass(kw_only=True)
class StageWork:
    """One attempt; `carry_out` is called once, `close` at the end."""

    order: Order
    artifacts: ArtifactStore
    ledger: ShardLedger
    cluster: Cluster
    tracker: Tracker
    log_stem: Path
    scratch: Path  # of this attempt; deleted by `close`
    stopped: Callable[[], bool]
    _folder: AttemptFolder | None = None
    _context: AttemptContext | None = None
    _step_before: int | None = None
    _started_s: float = field(default_factory=time.time)

    def carry_out(self, started: Callable[[], None]) -> Artifact:
        """`started` is called when the inputs are open. Raises: whatever the stage raises; CancelledError."""
        order = self.order
        planned = order.planned
        kind, fingerprint = planned.spec.kind, planned.fingerprint
        store = self.artifacts.store
        folder = self._folder = self.artifacts.new_attempt(kind.name, fingerprint, order.attempt_id)
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._step_before = newest_checkpoint_step(store, kind.name, fingerprint)
        inputs = self._open_inputs()
        started()
        context = self._context = AttemptContext(
            planned=planned,
            place=AttemptPlace(
                run_id=order.run_id,
                attempt_id=order.attempt_id,
                epoch=order.epoch,
                folder=folder,
                scratch=self.scratch,
                log_stem=self.log_stem,
            ),
            artifacts_by_slot=inputs,
            tracker=self.tracker,
            checkpoints=StoredCheckpoints(
                store=store,
                cache=self.artifacts.cache,
                stage_kind=kind.name,
                fingerprint=fingerprint,
                attempt_id=order.attempt_id,
                epoch=order.epoch,
            ),
            cluster=self.cluster,
            ledger=self.ledger,
            stopped=self.stopped,
            takedowns=read_takedowns(store),
            memory_halvings=order.memory_halvings,
        )
        with context.spares:
            stats = kind.run(planned.spec.config, context)
        self._check_gates(stats)
        return self.artifacts.commit(folder, self._draft(context, inputs, stats), epoch=order.epoch)

    def progressed(self) -> bool:
        """True if the attempt left something durable behind that the next one need not do again."""
        if self._context is None:
            return False
        planned = self.order.planned
        step = newest_checkpoint_step(self.artifacts.store, planned.spec.kind.name, planned.fingerprint)
        return self._context.made_shards or (step or -1) > (self._step_before or -1)

    def abandon(self, reason: str) -> None:
        """Give the attempt's files up."""
        if self._folder is None:
            return
        try:
            self.artifacts.abort(self._folder, reason=reason)
        except OrchestratorError as error:  # the collector finds it later
            log.warning("%s: its files are left behind: %s", self.order.attempt_id, error)

    def close(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _check_gates(self, figures: Mapping[str, float]) -> None:
        planned = self.order.planned
        errors, warnings = broken_gates(planned.spec, figures)
        for sentence in warnings:
            log.warning("%s: %s", planned.id, sentence)
            self.tracker.log_event("gate_broken", {"message": sentence})
        if errors:
            raise GateError(
                f"{planned.id}: {'; '.join(errors)}. It is not committed; its shards and checkpoints are kept, so with "
                "another bound running again makes nothing anew"
            )

    def _open_inputs(self) -> dict[str, list[Artifact]]:
        """Raises: CorruptArtifactError: an input is gone or damaged."""
        return {
            slot: [self.artifacts.open(stage.spec.kind.name, stage.fingerprint) for stage in stages]
            for slot, stages in self.order.inputs.items()
        }

    def _draft(
        self, context: AttemptContext, inputs: Mapping[str, Sequence[Artifact]], stats: Mapping[str, float]
    ) -> ManifestDraft:
        planned = self.order.planned
        code: dict[str, JSON] = {"digest": planned.code.digest, "files": dict(planned.code.files)}
        versions: dict[str, JSON] = {name: _version(name) for name in RECORDED_PACKAGES}
        return ManifestDraft(
            kind=planned.spec.kind.output,
            payload=planned.payload,
            stats={name: float(value) for name, value in stats.items()},
            shards=tuple(context.shards),
            inputs={slot: tuple(artifact.fingerprint for artifact in found) for slot, found in inputs.items() if found},
            provenance={
                "run": self.order.run_id,
                "stage": planned.id,
                "attempt": self.order.attempt_id,
                "epoch": self.order.epoch,
                "host": socket.gethostname(),
                "python": platform.python_version(),
                "packages": versions,
                "seconds": round(time.time() - self._started_s, 3),
                PROVENANCE_CODE: code,
            },
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
