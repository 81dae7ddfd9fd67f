"""The artifacts of a plan, and its trainings as their stage kinds see them: what these say about exposures."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_pipelines.datasets.reader import is_table
from orchestrator.artifact import Artifact, ArtifactKey
from orchestrator.artifacts.checkpoints import checkpoint_files, kept_steps
from orchestrator.artifacts.restarts import restart_in
from orchestrator.artifacts.takedowns import PROVENANCE_TAKEDOWNS
from orchestrator.errors import OrchestratorError, PluginError
from orchestrator.learning import Exposures, Samples, Training
from orchestrator.planning.plan import Plan, PlannedStage
from orchestrator.store.copies.copy_budget import INDEXES
from orchestrator.store.copies.local_copy import adopt_folder
from orchestrator.store.store import Store
from orchestrator.workspace import Workspace
from stages.provenance.exposure_records import ExposureRecord, UnknownExposureError, find_record, steps_before

Ask = Callable[[Training[Any], Samples], Exposures]


class RunArtifacts:
    """The artifacts of a plan, as far as they exist."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self._artifacts, self._store, self._plan = workspace.artifacts, workspace.store, plan
        self._cache = workspace.root / "cache"

    def finished(self, output: str) -> list[PlannedStage]:
        """The stages with an artifact of a kind of artifact."""
        return [stage for stage in self._plan.stages if stage.spec.kind.output == output and self.has_artifact(stage)]

    def has_artifact(self, stage: PlannedStage) -> bool:
        return self._artifacts.find(stage.key) is not None

    def known_takedowns(self, stage: PlannedStage) -> list[str]:
        """Ids of the takedowns that the attempt that made the stage's artifact knew and respected."""
        stored = self._artifacts.stored(stage.key)
        recorded = stored.manifest.provenance.get(PROVENANCE_TAKEDOWNS) if stored else None
        return [str(name) for name in recorded] if isinstance(recorded, list) else []

    def open(self, stage: PlannedStage, only: Callable[[str], bool] = is_table) -> Artifact:
        """The stage's artifact, by default with its tables; of a remote store nothing else is downloaded."""
        return self._artifacts.open(stage.key, only=only)

    def inputs(self, stage: PlannedStage, slot: str, only: Callable[[str], bool]) -> tuple[Path, ...]:
        """The artifacts that the stage read, which a takedown may since have replaced in the plan."""
        return tuple(self._artifacts.open(source, only=only).path for source in self._sources(stage, slot))

    def is_traceable(self, stage: PlannedStage) -> bool:
        """Whether everything that the stage read still exists, and this code would read it in the same order."""
        if stage.payload["version"] != stage.spec.kind.version:
            return False
        sources = (source for slot in stage.spec.inputs for source in self._sources(stage, slot))
        return all(self._artifacts.find(source) is not None for source in sources)

    def _sources(self, stage: PlannedStage, slot: str) -> list[ArtifactKey]:
        if not stage.spec.kind.inputs[slot].decides:
            return []
        slots = stage.payload["inputs"]
        read = slots.get(slot, []) if isinstance(slots, dict) else []
        kinds = [self._plan.stage(name).spec.kind.name for name in stage.spec.inputs.get(slot, ())]
        fingerprints = [str(fingerprint) for fingerprint in read] if isinstance(read, list) else []
        return [ArtifactKey(kind, fingerprint) for kind, fingerprint in zip(kinds, fingerprints, strict=True)]

    def prepared(self, stage: PlannedStage) -> Path | None:
        """The artifact in a slot that decides nothing, if it exists and was made from what the stage read."""
        read = stage.payload["inputs"]
        for slot, names in stage.spec.inputs.items():
            if stage.spec.kind.inputs[slot].decides or not isinstance(read, dict):
                continue
            key = self._plan.stage(names[0]).key
            stored = self._artifacts.stored(key)
            made_from = stored.manifest.inputs if stored is not None else {"": ("",)}
            if all(list(found) == read.get(name) for name, found in made_from.items()):
                return self._artifacts.open(key).path
        return None

    def kept_checkpoints(self, stage: PlannedStage) -> list[int]:
        """The steps of the kept checkpoints of a training, oldest first."""
        return kept_steps(self._store, stage.key)

    def exposure_record(self, fingerprint: str) -> ExposureRecord | None:
        return find_record(self._store, fingerprint)

    def steps_before(self, fingerprint: str, step: int, digests: frozenset[str]) -> dict[str, list[int]]:
        return steps_before(self._store, fingerprint, step, digests)

    def training(self, stage: PlannedStage) -> "_Training":
        return _Training(artifacts=self, stage=stage, store=self._store, indexes=self._cache)


@dataclass(frozen=True, kw_only=True)
class _Training:
    """`learning.Training` of one stage of a plan."""

    artifacts: RunArtifacts
    stage: PlannedStage
    store: Store
    indexes: Path  # local folder with the folder of indexes

    @property
    def config(self) -> Any:
        return self.stage.spec.config

    @property
    def first_step(self) -> int:
        restart = restart_in(self.stage.payload)
        return 0 if restart is None else restart.step

    def inputs(self, slot: str, only: Callable[[str], bool] | None = None) -> tuple[Path, ...]:
        return self.artifacts.inputs(self.stage, slot, only or _any_file)

    def output(self, only: Callable[[str], bool] | None = None) -> Path | None:
        has_ended = self.artifacts.has_artifact(self.stage)
        return self.artifacts.open(self.stage, only or _any_file).path if has_ended else None

    def checkpoint_files(self, name: str) -> dict[int, bytes]:
        return dict(checkpoint_files(self.store, self.stage.key, name))

    def index(self, make: Callable[[Path], object]) -> Path:
        if (made := self.artifacts.prepared(self.stage)) is not None:
            return made
        folder = self.indexes / INDEXES / self.stage.fingerprint
        if not folder.exists():
            fresh = folder.with_name(uuid.uuid4().hex)
            make(fresh)
            adopt_folder(self.indexes, f"{INDEXES}/{self.stage.fingerprint}", fresh)
        return folder


def _any_file(_path: str) -> bool:
    return True


def exposures_of(
    artifacts: RunArtifacts, stage: PlannedStage, samples: Samples, digests: frozenset[str] = frozenset()
) -> Exposures:
    """The exposures of a training whose data exist; the steps of a training that it continues come from its record.

    That may hold samples which the data no longer do; it is searched for `digests` too.

    Raises: PluginError: as `ask_exposures`. UnknownExposureError: there is no such record, or the kind does not say.
    """
    found = own_exposures(artifacts, stage, samples)
    restart = restart_in(stage.payload)
    if restart is None:
        return found
    before = artifacts.steps_before(restart.fingerprint, restart.step, digests | frozenset(samples))
    return Exposures(
        num_steps=found.num_steps,
        steps={name: [*before.get(name, ()), *found.steps.get(name, ())] for name in sorted({*before, *found.steps})},
        checkpoints={step: seen or bool(before) for step, seen in found.checkpoints.items()},
    )


def own_exposures(artifacts: RunArtifacts, stage: PlannedStage, samples: Samples) -> Exposures:
    """The exposures of the steps that a training did itself. Raises: as `exposures_of`."""
    learned, training = stage.spec.kind.learned, artifacts.training(stage)
    if learned is None or learned.exposures is None:
        raise UnknownExposureError(f"stage kind {stage.spec.kind.name!r} does not say which samples it learned from")
    found = ask_exposures(stage, learned.exposures, training, samples)
    if not training.first_step:
        return found
    steps = {name: [step for step in steps if step >= training.first_step] for name, steps in found.steps.items()}
    return replace(found, steps={name: own for name, own in steps.items() if own})


def ask_exposures(stage: PlannedStage, ask: Ask, training: Training[Any], samples: Samples) -> Exposures:
    """What the kind of a stage says about the exposures of its training.

    Raises: PluginError: the kind is of others and fails, or answers something else.
    """
    kind = stage.spec.kind
    try:
        found: object = ask(training, samples)
    except OrchestratorError:
        raise
    except Exception as error:
        if kind.plugin is None:
            raise
        raise PluginError(
            f"the exposures of stage kind {kind.name!r} (plugin {kind.plugin}) cannot be computed: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Exposures):
        raise PluginError(
            f"the exposures of stage kind {kind.name!r} (plugin {kind.plugin}): found {type(found).__name__}, expected "
            "Exposures"
        )
    return found
