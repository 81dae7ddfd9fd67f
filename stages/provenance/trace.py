"""The way of samples through a run: datasets, token files, steps of every training, and the models behind them.

Steps are computed from the order of the data, which is arithmetic, and from the windows that a training passed over.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.datasets.reader import is_table
from data_pipelines.datasets.tombstones import DIGESTS
from data_pipelines.provenance.questions import Questions
from data_pipelines.provenance.sample_search import Match, TokenRow, find_everywhere, find_tokens
from orchestrator.artifact import Artifact, Fingerprint
from orchestrator.artifacts.checkpoints import kept_checkpoints
from orchestrator.artifacts.takedowns import Takedown, read_takedowns
from orchestrator.errors import RecipeError
from orchestrator.planning.plan import Plan, PlannedStage
from orchestrator.retention.local_copies import INDEXES
from orchestrator.store.verification import place
from orchestrator.workspace import Workspace
from stages.training.checkpoint_files import PROGRESS_FILE, Progress, parse_progress, read_progress

MODELS = ("vision@1", "tokenizer@1", "mllm@1", "decoder@1", "export@1")
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What a training saw of one sample."""

    stage: str
    sample_id: str
    steps: tuple[int, ...]  # of the optimizer, counted from 0


@dataclass(frozen=True, kw_only=True)
class CheckpointExposure:
    """A checkpoint that is kept in the store, and whether its weights come from a sample, also by way of its inputs."""

    stage: str
    step: int  # optimizer steps done
    saw: bool


@dataclass(kw_only=True)
class Trace:
    """Everything found, by stage."""

    matches: dict[str, list[Match]] = field(default_factory=dict)
    tokens: dict[str, list[TokenRow]] = field(default_factory=dict)
    exposures: list[Exposure] = field(default_factory=list)
    saw: list[str] = field(default_factory=list)  # stages whose model was trained on a sample, or comes from such a one
    clean: list[str] = field(default_factory=list)  # the other stages that make models
    checkpoints: list[CheckpointExposure] = field(default_factory=list)  # by stage, oldest first
    unknown: list[str] = field(
        default_factory=list
    )  # trainings whose data are gone, or that older code made: nobody can tell
    newest_clean: dict[str, int | None] = field(default_factory=dict)  # of trainings that saw; None: no checkpoint is
    steps: dict[str, int] = field(default_factory=dict)  # how far each training has come
    asked: int = 0  # questions
    unanswered: list[str] = field(default_factory=list)  # questions that no dataset answers
    taken_down: dict[str, str] = field(default_factory=dict)  # those of them that a takedown names -> its id

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Run:
    """The artifacts of a plan."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self._artifacts, self._store, self._plan = workspace.artifacts, workspace.store, plan
        self._cache = workspace.root / "cache"

    def made(self, kinds: Collection[str]) -> list[PlannedStage]:
        return [stage for stage in self._plan.stages if stage.spec.kind.name in kinds and self.has(stage)]

    def has(self, stage: PlannedStage) -> bool:
        return self._artifacts.find(stage.spec.kind.name, stage.fingerprint) is not None

    def open(self, stage: PlannedStage) -> Artifact:
        """Its tables; of a remote store nothing else is fetched."""
        return self._artifacts.open(stage.spec.kind.name, stage.fingerprint, only=is_table)

    def inputs(self, stage: PlannedStage, slot: str) -> tuple[Path, ...]:
        """What the stage really read, which a takedown may have replaced in the plan."""
        return tuple(self._artifacts.open(*source).path for source in self._sources(stage, slot))

    def can_be_followed(self, stage: PlannedStage) -> bool:
        """Whether everything that it read is still there, and this code would read it in the same order."""
        if stage.payload["version"] != stage.spec.kind.version:
            return False
        sources = (source for slot in stage.spec.inputs for source in self._sources(stage, slot))
        return all(self._artifacts.find(*source) is not None for source in sources)

    def _sources(self, stage: PlannedStage, slot: str) -> list[tuple[str, Fingerprint]]:
        slots = stage.payload["inputs"]
        read = slots.get(slot, []) if isinstance(slots, dict) else []
        kinds = [self._plan.stage(name).spec.kind.name for name in stage.spec.inputs.get(slot, ())]
        fingerprints = [Fingerprint(str(one)) for one in read] if isinstance(read, list) else []
        return list(zip(kinds, fingerprints, strict=True))

    def checkpoints(self, stage: PlannedStage) -> dict[int, Progress]:
        """Those kept of a training, by optimizer step, oldest first."""
        kept = kept_checkpoints(self._store, stage.spec.kind.name, stage.fingerprint, PROGRESS_FILE)
        return {step: parse_progress(data) for step, data in kept}

    def index(self, stage: PlannedStage, make: Callable[[Path], Any]) -> Path:
        """The index of a training's data, kept for the next trace; `make` fills a folder with it."""
        folder = self._cache / INDEXES / stage.fingerprint
        if not folder.exists():
            fresh = folder.with_name(uuid.uuid4().hex)
            make(fresh)
            place(fresh, folder, self._cache)
        return folder


def trace_run(workspace: Workspace, plan: Plan, questions: Questions) -> Trace:
    """Follow everything that answers a question through the run of a plan, also of one that has not ended.

    Raises: RecipeError if the run has no dataset yet.
    """
    run = _Run(workspace, plan)
    datasets = run.made({"curate"})
    if not datasets:
        raise RecipeError(f"recipe {plan.recipe!r}: no curated dataset is made yet, so there is nothing to trace in")
    found = find_everywhere({stage.id: run.open(stage).path for stage in datasets}, questions)
    trace = Trace(matches=found.matches, asked=questions.num_asked, unanswered=found.unanswered)
    kept = [match for matches in found.matches.values() for match in matches if match.verdict == "keep"]
    samples = _Samples(kept)
    for stage in run.made({"tokenize_images"}):
        trace.tokens[stage.id] = list(find_tokens(run.open(stage).path, samples.ids))
    kept_checkpoints_of: dict[str, dict[int, bool]] = {}
    takedowns = read_takedowns(workspace.store)
    for question in found.unanswered:
        digest = questions.pictures.get(question, question)
        by = [one.id for one in takedowns if digest in one.content.get(DIGESTS, ())]
        trace.taken_down |= {question: by[0]} if by else {}
    for stage in plan.stages:
        if stage.spec.kind.name not in TRAININGS:
            continue
        if run.has(stage) and not run.can_be_followed(stage):
            if not _is_cleared(stage, found.matches, takedowns):
                trace.unknown.append(stage.id)
        else:
            kept_checkpoints_of[stage.id] = _trace_training(run, stage, samples, trace)
    _divide_models(run, plan, trace, kept_checkpoints_of)
    return trace


def _is_cleared(stage: PlannedStage, matches: Mapping[str, Sequence[Match]], takedowns: Sequence[Takedown]) -> bool:
    """Whether takedowns of all these samples have shown, while the data were there, that a training saw none."""
    by_takedowns = [one.content.get(DIGESTS, frozenset()) for one in takedowns if stage.fingerprint in one.cleared]
    samples = {match.sample_id for found in matches.values() for match in found}
    return bool(by_takedowns) and samples <= frozenset().union(*by_takedowns)


class _Samples:
    """The kept samples that answer; trainings on pictures know each by its first one, whatever samples share it."""

    def __init__(self, kept: Sequence[Match]) -> None:
        self.ids = sorted({match.sample_id for match in kept})
        ranks = {sample_id: rank for rank, sample_id in enumerate(self.ids)}
        pairs = sorted({(match.images[0], ranks[match.sample_id]) for match in kept if match.images})
        self.pictures = sorted({image for image, _ in pairs})
        self._owners = np.array([rank for _, rank in pairs], dtype=np.int64)
        places = {image: place for place, image in enumerate(self.pictures)}
        self._places = np.array([places[image] for image, _ in pairs], dtype=np.int64)

    def owners(self, which: Integers, steps: Integers) -> tuple[Integers, Integers]:
        """(sample, step) instead of (picture, step); sorted, none twice. `which` is sorted."""
        first, last = (np.searchsorted(which, self._places, side=side) for side in ("left", "right"))
        at = np.concatenate([np.zeros(0, np.int64), *(np.arange(*span) for span in zip(first, last, strict=True))])
        pairs = np.unique(np.stack([np.repeat(self._owners, last - first), steps[at.astype(np.int64)]]), axis=1)
        return pairs[0], pairs[1]


def _trace_training(run: _Run, stage: PlannedStage, samples: _Samples, trace: Trace) -> dict[int, bool]:
    """Note the steps of a training; which of its kept checkpoints were trained on a sample."""
    checkpoints = run.checkpoints(stage)
    if run.has(stage):
        steps = stage.spec.config.loop.steps
        progress = read_progress(run.open(stage).path)
    elif checkpoints:  # not at its end yet
        steps, progress = list(checkpoints.items())[-1]
    else:
        return {}
    trace.steps[stage.id] = steps
    if not samples.ids:
        return dict.fromkeys(checkpoints, False)
    stands = [(steps, progress), *checkpoints.items()]
    before = max(each.data_step(step - 1) + 1 for step, each in stands)
    which, data_steps = TRAININGS[stage.spec.kind.name](run, stage, samples, before)
    optimizer_steps = _optimizer_steps(data_steps, progress)
    trained = np.flatnonzero((optimizer_steps >= 0) & (optimizer_steps < steps))
    owners, optimizer_steps = which[trained], optimizer_steps[trained]
    bounds = np.flatnonzero(np.diff(owners)) + 1
    for owner, some in zip(np.split(owners, bounds), np.split(optimizer_steps, bounds), strict=True):
        if len(some):
            sample_id = samples.ids[owner[0]]
            trace.exposures.append(Exposure(stage=stage.id, sample_id=sample_id, steps=tuple(some.tolist())))
    distinct = np.unique(data_steps)
    return {step: _has_seen(distinct, each, step) for step, each in checkpoints.items()}


def _has_seen(data_steps: Integers, progress: Progress, step: int) -> bool:
    found = _optimizer_steps(data_steps, progress)
    return bool(((found >= 0) & (found < step)).any())


def _optimizer_steps(data_steps: Integers, progress: Progress) -> Integers:
    """The optimizer steps that consumed some steps of data; -1 where they were passed over."""
    distinct, at = np.unique(data_steps, return_inverse=True)
    found = [progress.step_of(step) for step in distinct.tolist()]
    return np.array([-1 if step is None else step for step in found], dtype=np.int64)[at]


def _divide_models(run: _Run, plan: Plan, trace: Trace, checkpoints: Mapping[str, Mapping[int, bool]]) -> None:
    """Models that saw a sample, themselves or through a model that they were made from; and those that did not."""
    saw = {exposure.stage for exposure in trace.exposures}
    for stage in plan.stages:  # upstream first
        kept = checkpoints.get(stage.id, {})
        if stage.spec.kind.output not in MODELS or not (run.has(stage) or kept):
            continue
        upstream = {name for slot, names in stage.spec.inputs.items() if slot != "report" for name in names}
        comes_from_it = not saw.isdisjoint(upstream)
        trace.checkpoints += [
            CheckpointExposure(stage=stage.id, step=step, saw=comes_from_it or seen) for step, seen in kept.items()
        ]
        has_seen = stage.id in saw or comes_from_it
        if has_seen:
            saw.add(stage.id)
        if has_seen and stage.id in checkpoints:
            clean = [] if comes_from_it else [step for step, seen in kept.items() if not seen]
            trace.newest_clean[stage.id] = max(clean, default=None)
        if run.has(stage) and (has_seen or stage.id not in trace.unknown):
            (trace.saw if has_seen else trace.clean).append(stage.id)


def _mllm_steps(run: _Run, stage: PlannedStage, samples: _Samples, before: int) -> tuple[Integers, Integers]:
    from stages.programs.mllm import index_data, training_order
    from stages.programs.mllm_config import MllmTask

    task = MllmTask(
        config=stage.spec.config,
        datasets=run.inputs(stage, "datasets"),
        tokens=run.inputs(stage, "tokens"),
        tokenizer=run.inputs(stage, "tokenizer")[0],
        vocabulary=run.inputs(stage, "vocabulary")[0],
        start=None,
        index=Path(),
    )
    index = run.index(stage, lambda folder: index_data(replace(task, index=folder)))
    ids = np.frombuffer(bytes.fromhex("".join(samples.ids)), dtype=np.uint8).reshape(-1, 32)
    return training_order(replace(task, index=index)).exposures(ids, before_step=before)


def _picture_steps(run: _Run, stage: PlannedStage, samples: _Samples, before: int) -> tuple[Integers, Integers]:
    from data_pipelines.training_data.image_batches import PictureBatches

    batches: PictureBatches = _PICTURES[stage.spec.kind.name](run, stage)
    micros_per_step = stage.spec.config.loop.micros_per_step
    which, micros = batches.exposures(samples.pictures, before=before * micros_per_step)
    return samples.owners(which, micros // micros_per_step)


def _vision_pictures(run: _Run, stage: PlannedStage) -> Any:
    from stages.programs.vision import vision_pictures

    return vision_pictures(stage.spec.config, run.inputs(stage, "datasets"))


def _tokenizer_pictures(run: _Run, stage: PlannedStage) -> Any:
    from stages.programs.tokenizer import tokenizer_pictures
    from stages.programs.tokenizer_config import TokenizerTask

    task = TokenizerTask(config=stage.spec.config, datasets=run.inputs(stage, "datasets"), vision=None, start=None)
    return tokenizer_pictures(task)


def _decoder_pictures(run: _Run, stage: PlannedStage) -> Any:
    from stages.programs.decoder import TokenizedPictures
    from stages.programs.decoder_config import DecoderTask

    task = DecoderTask(
        config=stage.spec.config,
        datasets=run.inputs(stage, "datasets"),
        tokens=run.inputs(stage, "tokens"),
        tokenizer=run.inputs(stage, "tokenizer")[0],
        start=None,
    )
    return TokenizedPictures(task).batches


_PICTURES: Mapping[str, Callable[[_Run, PlannedStage], Any]] = {
    "train_vision": _vision_pictures,
    "train_tokenizer": _tokenizer_pictures,
    "train_decoder": _decoder_pictures,
}
TRAININGS: Mapping[str, Callable[[_Run, PlannedStage, _Samples, int], tuple[Integers, Integers]]] = {
    **dict.fromkeys(_PICTURES, _picture_steps),
    "train_mllm": _mllm_steps,
}
