"""Traces samples through a run: datasets, token files, steps of every training, checkpoints and models.

Steps are not logged but computed, from the order of the data, which is arithmetic, and the windows that a training
skipped.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.datasets.reader import is_table
from data_pipelines.datasets.tombstones import DIGEST_MARKS
from data_pipelines.provenance.questions import Questions
from data_pipelines.provenance.sample_search import Match, TokenRow, find_everywhere, find_tokens
from orchestrator.artifact import Artifact, ArtifactKey
from orchestrator.artifacts.checkpoints import checkpoint_files
from orchestrator.artifacts.takedowns import Takedown, read_takedowns
from orchestrator.errors import RecipeError
from orchestrator.planning.plan import Plan, PlannedStage
from orchestrator.retention.local_copies import INDEXES
from orchestrator.store.verification import move_to_cache
from orchestrator.workspace import Workspace
from stages.training.checkpoint_files import PROGRESS_FILE, Progress, parse_progress, read_progress

MODELS = ("vision@1", "tokenizer@1", "mllm@1", "decoder@1", "export@1")
Integers = npt.NDArray[np.int64]


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
    unknown: list[str] = field(default_factory=list)  # trainings that cannot be traced: data gone, or older code
    newest_clean: dict[str, int | None] = field(default_factory=dict)  # step, for trainings in `saw`; None: none kept
    steps: dict[str, int] = field(default_factory=dict)  # optimizer steps done by each training
    asked: int = 0  # number of questions
    unanswered: list[str] = field(default_factory=list)  # questions without a match in any dataset
    taken_down: dict[str, str] = field(default_factory=dict)  # unanswered question -> id of the takedown that names it

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _RunArtifacts:
    """The artifacts of a plan, as far as they exist."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self._artifacts, self._store, self._plan = workspace.artifacts, workspace.store, plan
        self._cache = workspace.root / "cache"

    def finished(self, kinds: Collection[str]) -> list[PlannedStage]:
        return [stage for stage in self._plan.stages if stage.spec.kind.name in kinds and self.has_artifact(stage)]

    def has_artifact(self, stage: PlannedStage) -> bool:
        return self._artifacts.find(stage.key) is not None

    def open(self, stage: PlannedStage) -> Artifact:
        """The stage's artifact with its tables; of a remote store nothing else is downloaded."""
        return self._artifacts.open(stage.key, only=is_table)

    def inputs(self, stage: PlannedStage, slot: str) -> tuple[Path, ...]:
        """The artifacts that the stage read, which a takedown may since have replaced in the plan."""
        return tuple(self._artifacts.open(source).path for source in self._sources(stage, slot))

    def is_traceable(self, stage: PlannedStage) -> bool:
        """Whether everything that the stage read still exists, and this code would read it in the same order."""
        if stage.payload["version"] != stage.spec.kind.version:
            return False
        sources = (source for slot in stage.spec.inputs for source in self._sources(stage, slot))
        return all(self._artifacts.find(source) is not None for source in sources)

    def _sources(self, stage: PlannedStage, slot: str) -> list[ArtifactKey]:
        slots = stage.payload["inputs"]
        read = slots.get(slot, []) if isinstance(slots, dict) else []
        kinds = [self._plan.stage(name).spec.kind.name for name in stage.spec.inputs.get(slot, ())]
        fingerprints = [str(fingerprint) for fingerprint in read] if isinstance(read, list) else []
        return [ArtifactKey(kind, fingerprint) for kind, fingerprint in zip(kinds, fingerprints, strict=True)]

    def checkpoints(self, stage: PlannedStage) -> dict[int, Progress]:
        """The kept checkpoints of a training, by optimizer step, oldest first."""
        kept = checkpoint_files(self._store, stage.key, PROGRESS_FILE)
        return {step: parse_progress(data) for step, data in kept}

    def index(self, stage: PlannedStage, make: Callable[[Path], Any]) -> Path:
        """The folder with the index of a training's data, cached for the next trace; `make` writes it."""
        folder = self._cache / INDEXES / stage.fingerprint
        if not folder.exists():
            fresh = folder.with_name(uuid.uuid4().hex)
            make(fresh)
            move_to_cache(fresh, folder, self._cache)
        return folder


def trace_run(workspace: Workspace, plan: Plan, questions: Questions) -> Trace:
    """Trace all samples that match a question through the run of a plan; the run may be unfinished.

    Raises: RecipeError if the run has no dataset yet.
    """
    artifacts = _RunArtifacts(workspace, plan)
    datasets = artifacts.finished({"curate"})
    if not datasets:
        raise RecipeError(f"recipe {plan.recipe!r}: there is no curated dataset yet, so there is nothing to trace")
    found = find_everywhere({stage.id: artifacts.open(stage).path for stage in datasets}, questions)
    trace = Trace(matches=found.matches, asked=questions.num_asked, unanswered=found.unanswered)
    kept = [match for matches in found.matches.values() for match in matches if match.verdict == "keep"]
    samples = _Samples(kept)
    for stage in artifacts.finished({"tokenize_images"}):
        trace.tokens[stage.id] = list(find_tokens(artifacts.open(stage).path, samples.ids))
    checkpoints: dict[str, dict[int, bool]] = {}
    takedowns = read_takedowns(workspace.store)
    for question in found.unanswered:
        digest = questions.images.get(question, question)
        ids = [takedown.id for takedown in takedowns if digest in takedown.content.get(DIGEST_MARKS, ())]
        trace.taken_down |= {question: ids[0]} if ids else {}
    for stage in plan.stages:
        if stage.spec.kind.name not in TRAININGS:
            continue
        if artifacts.has_artifact(stage) and not artifacts.is_traceable(stage):
            if not _is_cleared(stage, found.matches, takedowns):
                trace.unknown.append(stage.id)
        else:
            checkpoints[stage.id] = _trace_training(artifacts, stage, samples, trace)
    _classify_models(artifacts, plan, trace, checkpoints)
    return trace


def _is_cleared(stage: PlannedStage, matches: Mapping[str, Sequence[Match]], takedowns: Sequence[Takedown]) -> bool:
    """Whether takedowns of all these samples showed, while the data existed, that the training saw none of them."""
    clearing = [takedown for takedown in takedowns if stage.fingerprint in takedown.cleared]
    unseen = frozenset().union(*(takedown.content.get(DIGEST_MARKS, frozenset()) for takedown in clearing))
    samples = {match.sample_id for found in matches.values() for match in found}
    return bool(clearing) and samples <= unseen


class _Samples:
    """The kept samples among the matches. Trainings on images know a sample by its first image, which may be shared."""

    def __init__(self, kept: Sequence[Match]) -> None:
        self.ids = sorted({match.sample_id for match in kept})
        ranks = {sample_id: rank for rank, sample_id in enumerate(self.ids)}
        pairs = sorted({(match.images[0], ranks[match.sample_id]) for match in kept if match.images})
        self.images = sorted({image for image, _ in pairs})
        self._owners = np.array([rank for _, rank in pairs], dtype=np.int64)
        numbers = {image: number for number, image in enumerate(self.images)}
        self._numbers = np.array([numbers[image] for image, _ in pairs], dtype=np.int64)

    def owners(self, which: Integers, steps: Integers) -> tuple[Integers, Integers]:
        """From pairs (image, step), sorted by image, the pairs (sample, step), sorted and distinct."""
        first, last = (np.searchsorted(which, self._numbers, side=side) for side in ("left", "right"))
        at = np.concatenate([np.zeros(0, np.int64), *(np.arange(*span) for span in zip(first, last, strict=True))])
        pairs = np.unique(np.stack([np.repeat(self._owners, last - first), steps[at.astype(np.int64)]]), axis=1)
        return pairs[0], pairs[1]


def _trace_training(artifacts: _RunArtifacts, stage: PlannedStage, samples: _Samples, trace: Trace) -> dict[int, bool]:
    """Add the exposures of a training to the trace. Returns for each kept checkpoint whether it saw a sample."""
    checkpoints = artifacts.checkpoints(stage)
    if artifacts.has_artifact(stage):
        steps = stage.spec.config.loop.steps
        progress = read_progress(artifacts.open(stage).path)
    elif checkpoints:  # not finished yet
        steps, progress = list(checkpoints.items())[-1]
    else:
        return {}
    trace.steps[stage.id] = steps
    if not samples.ids:
        return dict.fromkeys(checkpoints, False)
    states = [(steps, progress), *checkpoints.items()]
    before = max(state.data_step(step - 1) + 1 for step, state in states)
    which, data_steps = TRAININGS[stage.spec.kind.name](artifacts, stage, samples, before)
    optimizer_steps = _optimizer_steps(data_steps, progress)
    trained = np.flatnonzero((optimizer_steps >= 0) & (optimizer_steps < steps))
    owners, optimizer_steps = which[trained], optimizer_steps[trained]
    bounds = np.flatnonzero(np.diff(owners)) + 1
    for owner, owner_steps in zip(np.split(owners, bounds), np.split(optimizer_steps, bounds), strict=True):
        if len(owner_steps):
            sample_id = samples.ids[owner[0]]
            trace.exposures.append(Exposure(stage=stage.id, sample_id=sample_id, steps=tuple(owner_steps.tolist())))
    distinct = np.unique(data_steps)
    return {step: _saw_any(distinct, state, step) for step, state in checkpoints.items()}


def _saw_any(data_steps: Integers, progress: Progress, step: int) -> bool:
    found = _optimizer_steps(data_steps, progress)
    return bool(((found >= 0) & (found < step)).any())


def _optimizer_steps(data_steps: Integers, progress: Progress) -> Integers:
    """The optimizer steps that consumed the data steps; -1 where a data step was skipped."""
    distinct, at = np.unique(data_steps, return_inverse=True)
    found = [progress.optimizer_step(step) for step in distinct.tolist()]
    return np.array([-1 if step is None else step for step in found], dtype=np.int64)[at]


def _classify_models(
    artifacts: _RunArtifacts, plan: Plan, trace: Trace, checkpoints: Mapping[str, Mapping[int, bool]]
) -> None:
    """Add to the trace which models saw a sample, directly or through a model they were made from, and which not."""
    saw = {exposure.stage for exposure in trace.exposures}
    for stage in plan.stages:  # upstream first
        kept = checkpoints.get(stage.id, {})
        if stage.spec.kind.output not in MODELS or not (artifacts.has_artifact(stage) or kept):
            continue
        upstream = {name for slot, names in stage.spec.inputs.items() if slot != "report" for name in names}
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


def _mllm_steps(
    artifacts: _RunArtifacts, stage: PlannedStage, samples: _Samples, before: int
) -> tuple[Integers, Integers]:
    from stages.programs.mllm import build_index, training_order
    from stages.programs.mllm_config import MllmTask

    task = MllmTask(
        config=stage.spec.config,
        datasets=artifacts.inputs(stage, "datasets"),
        tokens=artifacts.inputs(stage, "tokens"),
        tokenizer=artifacts.inputs(stage, "tokenizer")[0],
        vocabulary=artifacts.inputs(stage, "vocabulary")[0],
        start=None,
        index=Path(),
    )
    index = artifacts.index(stage, lambda folder: build_index(replace(task, index=folder)))
    ids = np.frombuffer(bytes.fromhex("".join(samples.ids)), dtype=np.uint8).reshape(-1, 32)
    return training_order(replace(task, index=index)).exposures(ids, before_step=before)


def _image_steps(
    artifacts: _RunArtifacts, stage: PlannedStage, samples: _Samples, before: int
) -> tuple[Integers, Integers]:
    from data_pipelines.training_data.image_batches import ImageBatches

    batches: ImageBatches = _IMAGE_BATCHES[stage.spec.kind.name](artifacts, stage)
    micros_per_step = stage.spec.config.loop.micros_per_step
    which, micro_batches = batches.exposures(samples.images, before=before * micros_per_step)
    return samples.owners(which, micro_batches // micros_per_step)


def _vision_batches(artifacts: _RunArtifacts, stage: PlannedStage) -> Any:
    from stages.programs.vision import vision_batches

    return vision_batches(stage.spec.config, artifacts.inputs(stage, "datasets"))


def _tokenizer_batches(artifacts: _RunArtifacts, stage: PlannedStage) -> Any:
    from stages.programs.tokenizer import tokenizer_batches
    from stages.programs.tokenizer_config import TokenizerTask

    task = TokenizerTask(
        config=stage.spec.config, datasets=artifacts.inputs(stage, "datasets"), vision=None, start=None
    )
    return tokenizer_batches(task)


def _decoder_batches(artifacts: _RunArtifacts, stage: PlannedStage) -> Any:
    from stages.programs.decoder import TokenizedImages
    from stages.programs.decoder_config import DecoderTask

    task = DecoderTask(
        config=stage.spec.config,
        datasets=artifacts.inputs(stage, "datasets"),
        tokens=artifacts.inputs(stage, "tokens"),
        tokenizer=artifacts.inputs(stage, "tokenizer")[0],
        start=None,
    )
    return TokenizedImages(task).batches


_IMAGE_BATCHES: Mapping[str, Callable[[_RunArtifacts, PlannedStage], Any]] = {
    "train_vision": _vision_batches,
    "train_tokenizer": _tokenizer_batches,
    "train_decoder": _decoder_batches,
}
TRAININGS: Mapping[str, Callable[[_RunArtifacts, PlannedStage, _Samples, int], tuple[Integers, Integers]]] = {
    **dict.fromkeys(_IMAGE_BATCHES, _image_steps),
    "train_mllm": _mllm_steps,
}
