"""Traces samples through a run: datasets, token files, steps of every training, checkpoints and models.

What saw which sample is asked of the stage kinds (`StageKind.learned`): those of others are traced like built-in ones.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.datasets.reader import is_table
from data_pipelines.datasets.tombstones import DIGEST_MARKS
from data_pipelines.provenance.questions import Questions
from data_pipelines.provenance.sample_search import Match, TokenRow, find_everywhere, find_tokens
from orchestrator.artifact import Artifact, ArtifactKey
from orchestrator.artifacts.checkpoints import checkpoint_files, kept_steps
from orchestrator.artifacts.takedowns import PROVENANCE_TAKEDOWNS, Takedown, read_takedowns, taken_down_text
from orchestrator.errors import OrchestratorError, PluginError, RecipeError
from orchestrator.learning import Exposures, Samples, Training
from orchestrator.planning.plan import Plan, PlannedStage
from orchestrator.store.copies.copy_budget import INDEXES
from orchestrator.store.copies.local_copy import adopt_folder
from orchestrator.store.store import Store
from orchestrator.workspace import Workspace

Ask = Callable[[Training[Any], Samples], Exposures]
CANNOT_BE_SHOWN = "cannot be shown clean"  # how a takedown says that it could not tell
DATASET, TOKENS = "dataset@1", "tokens@1"  # kinds of artifacts whose tables are searched, whoever makes them


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """The steps in which a training consumed one sample."""

    stage: str
    sample_id: str
    steps: tuple[int, ...]  # of the optimizer, counted from 0


@dataclass(frozen=True, kw_only=True)
class CheckpointExposure:
    """A checkpoint in the store, and whether it was trained on a sample, directly or through an input model."""

    stage: str
    step: int  # optimizer steps done
    saw: bool


@dataclass(kw_only=True)
class Trace:
    """Everything found, by stage."""

    matches: dict[str, list[Match]] = field(default_factory=dict)
    tokens: dict[str, list[TokenRow]] = field(default_factory=dict)
    exposures: list[Exposure] = field(default_factory=list)
    saw: list[str] = field(default_factory=list)  # stages whose model was trained on a sample, or made from such one
    clean: list[str] = field(default_factory=list)  # the other stages that make models
    checkpoints: list[CheckpointExposure] = field(default_factory=list)  # by stage, oldest first
    unknown: list[str] = field(default_factory=list)  # trainings that cannot be traced
    problems: dict[str, str] = field(default_factory=dict)  # of the `unknown` ones whose kind failed to answer
    newest_clean: dict[str, int | None] = field(default_factory=dict)  # step, for trainings in `saw`; None: none kept
    steps: dict[str, int] = field(default_factory=dict)  # optimizer steps done by each training
    asked: int = 0  # number of questions
    unanswered: list[str] = field(default_factory=list)  # questions without a match in any dataset
    taken_down: dict[str, str] = field(default_factory=dict)  # unanswered question -> `Takedown.signature`
    removed: dict[str, str] = field(default_factory=dict)  # stage whose artifact was taken down -> by which, and when
    recorded: dict[str, str] = field(default_factory=dict)  # model whose data are gone -> what a takedown found of it

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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


def trace_run(workspace: Workspace, plan: Plan, questions: Questions) -> Trace:
    """Trace all samples that match a question through the run of a plan; the run may be unfinished.

    Raises: RecipeError if the run has no dataset yet.
    """
    artifacts = RunArtifacts(workspace, plan)
    takedowns = read_takedowns(workspace.store)
    datasets = artifacts.finished(DATASET)
    removed = {stage.id: taken_down_text(takedowns, stage.fingerprint) for stage in plan.stages}
    if not datasets and not any(removed.values()):
        raise RecipeError(f"recipe {plan.recipe!r}: there is no curated dataset yet, so there is nothing to trace")
    found = find_everywhere({stage.id: artifacts.open(stage).path for stage in datasets}, questions)
    trace = Trace(matches=found.matches, asked=questions.num_asked, unanswered=found.unanswered)
    trace.removed = {stage_id: text for stage_id, text in removed.items() if text}
    samples = {
        match.sample_id: tuple(match.images)
        for matches in found.matches.values()
        for match in matches
        if match.verdict == "keep"
    }
    for stage in artifacts.finished(TOKENS):
        trace.tokens[stage.id] = list(find_tokens(artifacts.open(stage).path, sorted(samples)))
    checkpoints: dict[str, dict[int, bool]] = {}
    naming = {question: _naming(questions.images.get(question, question), takedowns) for question in found.unanswered}
    trace.taken_down = {question: named[0].signature for question, named in naming.items() if named}
    for stage in plan.stages:
        learned = stage.spec.kind.learned
        if learned is None or not learned.from_samples:
            continue
        is_known = learned.exposures is not None and artifacts.is_traceable(stage)
        if artifacts.has_artifact(stage) and not is_known:
            if not _is_cleared(stage, found.matches, takedowns):
                known = artifacts.known_takedowns(stage)
                judge_by_records(stage, trace, [named for named in naming.values() if named], known)
        elif learned.exposures is not None:
            try:
                checkpoints[stage.id] = _trace_training(artifacts, stage, learned.exposures, samples, trace)
            except PluginError as error:  # the others are traced nevertheless
                trace.unknown.append(stage.id)
                trace.problems[stage.id] = str(error)
    _classify_models(artifacts, plan, trace, checkpoints)
    return trace


def _naming(digest: str, takedowns: Sequence[Takedown]) -> list[Takedown]:
    """The takedowns of a sample or image, oldest first."""
    return [takedown for takedown in takedowns if digest in takedown.content.get(DIGEST_MARKS, ())]


def judge_by_records(
    stage: PlannedStage, trace: Trace, naming: Sequence[Sequence[Takedown]], known: Collection[str]
) -> None:
    """Judge a training whose data are gone by what the takedowns of the samples found while the data existed.

    `naming`: for each question about a sample that was taken down, its takedowns. Without any, or where they could not
    tell, the training is unknown. `known`: ids of the takedowns that it respected when it was made.
    """
    found = {
        artifact.why: takedown
        for takedowns in naming
        for takedown in takedowns
        for artifact in takedown.tainted
        if artifact.fingerprint == stage.fingerprint
    }
    shown_clean = [
        any(
            takedown.id in known or stage.fingerprint in takedown.cleared | (takedown.examined or frozenset())
            for takedown in named
        )
        for named in naming
    ]
    proofs = [why for why in found if not why.startswith(CANNOT_BE_SHOWN)]
    if proofs:
        trace.recorded[stage.id] = f"{proofs[0]}, as takedown {found[proofs[0]].id} found"
        trace.saw.append(stage.id)
    elif found:
        trace.problems[stage.id] = next(iter(found))
        trace.unknown.append(stage.id)
    elif naming and all(shown_clean) and len(naming) == trace.asked - _num_answered(trace):
        trace.recorded[stage.id] = f"shown to be clean by takedown {naming[0][0].id}"
    else:
        trace.unknown.append(stage.id)


def _num_answered(trace: Trace) -> int:
    return trace.asked - len(trace.unanswered)


def _is_cleared(stage: PlannedStage, matches: Mapping[str, Sequence[Match]], takedowns: Sequence[Takedown]) -> bool:
    """Whether takedowns of all these samples showed, while the data existed, that the training saw none of them."""
    clearing = [takedown for takedown in takedowns if stage.fingerprint in takedown.cleared]
    unseen = frozenset().union(*(takedown.content.get(DIGEST_MARKS, frozenset()) for takedown in clearing))
    samples = {match.sample_id for found in matches.values() for match in found}
    return bool(clearing) and samples <= unseen


def _trace_training(
    artifacts: RunArtifacts, stage: PlannedStage, ask: Ask, samples: Samples, trace: Trace
) -> dict[int, bool]:
    """Add the exposures of a training to the trace. Returns for each kept checkpoint whether it saw a sample."""
    kept = artifacts.kept_checkpoints(stage)
    if not kept and not artifacts.has_artifact(stage):
        return {}
    exposures = ask_exposures(stage, ask, artifacts.training(stage), samples)
    trace.steps[stage.id] = exposures.num_steps
    for sample_id, steps in sorted(exposures.steps.items()):
        if len(steps):
            trace.exposures.append(Exposure(stage=stage.id, sample_id=sample_id, steps=tuple(steps)))
    return {step: exposures.is_in_checkpoint(step) for step in kept}


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


def _classify_models(
    artifacts: RunArtifacts, plan: Plan, trace: Trace, checkpoints: Mapping[str, Mapping[int, bool]]
) -> None:
    """Add to the trace which models saw a sample, directly or through a model they were made from, and which not."""
    saw = {exposure.stage for exposure in trace.exposures} | set(trace.saw)
    trace.saw.clear()  # made again below, in the order of the plan
    for stage in plan.stages:  # upstream first
        kept = checkpoints.get(stage.id, {})
        learned = stage.spec.kind.learned
        if learned is None or not learned.is_model or not (artifacts.has_artifact(stage) or kept):
            continue
        upstream = {name for names in stage.spec.inputs.values() for name in names}
        is_inherited = not saw.isdisjoint(upstream)
        trace.checkpoints += [
            CheckpointExposure(stage=stage.id, step=step, saw=is_inherited or seen) for step, seen in kept.items()
        ]
        has_seen = stage.id in saw or is_inherited
        if has_seen:
            saw.add(stage.id)
        if has_seen and stage.id in checkpoints:
            clean = [] if is_inherited else [step for step, seen in kept.items() if not seen]
            trace.newest_clean[stage.id] = max(clean, default=None)
        if artifacts.has_artifact(stage) and (has_seen or stage.id not in trace.unknown):
            (trace.saw if has_seen else trace.clean).append(stage.id)
