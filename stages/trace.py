"""The way of samples through a run: datasets, token files, steps of every training, and the models behind them.

Steps are computed from the order of the data, which is arithmetic, and from the windows that a training passed over.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipelines.trace import Match, Questions, TokenRow, find_samples, find_tokens
from orchestrator.artifact import Artifact
from orchestrator.errors import RecipeError
from orchestrator.plan import Plan, PlannedStage
from orchestrator.workspace import Workspace
from stages.checkpointing import Progress, read_progress

MODELS = ("vision@1", "tokenizer@1", "mllm@1", "decoder@1", "export@1")


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What a training saw of one sample."""

    stage: str
    sample_id: str
    steps: tuple[int, ...]  # of the optimizer, counted from 0


@dataclass(kw_only=True)
class Trace:
    """Everything found, by stage."""

    matches: dict[str, list[Match]] = field(default_factory=dict)
    tokens: dict[str, list[TokenRow]] = field(default_factory=dict)
    exposures: list[Exposure] = field(default_factory=list)
    saw: list[str] = field(default_factory=list)  # stages whose model was trained on a sample, or comes from such a one
    clean: list[str] = field(default_factory=list)  # the other stages that make models

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Run:
    """The artifacts of a plan."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self._artifacts, self._plan = workspace.artifacts, plan

    def made(self, kinds: Collection[str]) -> list[PlannedStage]:
        return [stage for stage in self._plan.stages if stage.spec.kind.name in kinds and self.has(stage)]

    def has(self, stage: PlannedStage) -> bool:
        return self._artifacts.find(stage.spec.kind.name, stage.fingerprint) is not None

    def open(self, stage: PlannedStage) -> Artifact:
        return self._artifacts.open(stage.spec.kind.name, stage.fingerprint)

    def inputs(self, stage: PlannedStage, slot: str) -> tuple[Path, ...]:
        return tuple(self.open(self._plan.stage(name)).path for name in stage.spec.inputs.get(slot, ()))


def trace_run(workspace: Workspace, plan: Plan, questions: Questions) -> Trace:
    """Follow everything that answers a question through the run of a plan.

    Raises: RecipeError if the run has no dataset yet.
    """
    run, trace = _Run(workspace, plan), Trace()
    datasets = run.made({"curate"})
    if not datasets:
        raise RecipeError(f"recipe {plan.recipe!r}: no curated dataset is made yet, so there is nothing to trace in")
    for stage in datasets:
        trace.matches[stage.id] = _with_kept_copies(run.open(stage).path, questions)
    found = [match for matches in trace.matches.values() for match in matches]
    kept = {match.sample_id for match in found if match.verdict == "keep"}
    pictures: dict[str, set[str]] = {}  # trainings on pictures know each by its bytes, whatever samples share it
    for match in found:
        if match.verdict == "keep" and match.images:
            pictures.setdefault(match.images[0], set()).add(match.sample_id)
    for stage in run.made({"tokenize_images"}):
        trace.tokens[stage.id] = list(find_tokens(run.open(stage).path, kept))
    for kind, steps_of in TRAININGS.items():
        for stage in run.made({kind}) if kept else ():
            seen = steps_of(run, stage, sorted(kept), pictures, read_progress(run.open(stage).path))
            trace.exposures += [
                Exposure(stage=stage.id, sample_id=sample_id, steps=tuple(steps))
                for sample_id, steps in sorted(seen.items())
                if steps
            ]
    _divide_models(run, plan, trace)
    return trace


def _with_kept_copies(dataset: Path, questions: Questions) -> list[Match]:
    """What answers, and the samples that were kept in place of copies that answer."""
    found = list(find_samples(dataset, questions))
    known = {match.sample_id for match in found}
    copies = {match.duplicate_of for match in found if match.duplicate_of} - known
    if not copies:
        return found
    kept = find_samples(dataset, Questions(digests=copies))
    return found + [replace(match, found_by="a copy that was dropped") for match in kept]


def _divide_models(run: _Run, plan: Plan, trace: Trace) -> None:
    """Models that saw a sample, themselves or through a model that they were made from; and those that did not."""
    saw = {exposure.stage for exposure in trace.exposures}
    for stage in plan.stages:  # upstream first
        if stage.spec.kind.output not in MODELS or not run.has(stage):
            continue
        upstream = {name for slot, names in stage.spec.inputs.items() if slot != "report" for name in names}
        if stage.id in saw or not saw.isdisjoint(upstream):
            saw.add(stage.id)
            trace.saw.append(stage.id)
        else:
            trace.clean.append(stage.id)


Steps = Mapping[str, Sequence[int]]  # by sample id
Pictures = Mapping[str, Collection[str]]  # SHA-256 -> the samples whose first picture it is


def _mllm_steps(run: _Run, stage: PlannedStage, kept: Sequence[str], _: Pictures, progress: Progress) -> Steps:
    from stages.mllm_program import training_order
    from stages.train_mllm import MllmTask

    config = stage.spec.config
    with tempfile.TemporaryDirectory(prefix="trace-") as folder:
        task = MllmTask(
            config=config,
            datasets=run.inputs(stage, "datasets"),
            tokens=run.inputs(stage, "tokens"),
            tokenizer=run.inputs(stage, "tokenizer")[0],
            vocabulary=run.inputs(stage, "vocabulary")[0],
            start=None,
            index=Path(folder) / "index",
        )
        seen = training_order(task).steps_that_saw(kept, before_step=progress.data_step(config.loop.steps - 1) + 1)
    return {sample_id: _optimizer_steps(steps, progress) for sample_id, steps in zip(kept, seen, strict=True)}


def _picture_steps(run: _Run, stage: PlannedStage, _: Sequence[str], pictures: Pictures, progress: Progress) -> Steps:
    from data_pipelines.image_batches import PictureBatches

    batches: PictureBatches = _PICTURES[stage.spec.kind.name](run, stage)
    loop = stage.spec.config.loop
    before = (progress.data_step(loop.steps - 1) + 1) * loop.micros_per_step
    seen = batches.micros_that_showed(list(pictures), before=before)
    steps = {
        image: _optimizer_steps(sorted({micro // loop.micros_per_step for micro in micros}), progress)
        for image, micros in seen.items()
    }
    return {sample_id: steps[image] for image, samples in pictures.items() for sample_id in samples}


def _optimizer_steps(data_steps: Sequence[int], progress: Progress) -> list[int]:
    found = (progress.step_of(step) for step in data_steps)
    return [step for step in found if step is not None]


def _vision_pictures(run: _Run, stage: PlannedStage) -> Any:
    from stages.vision_program import vision_pictures

    return vision_pictures(stage.spec.config, run.inputs(stage, "datasets"))


def _tokenizer_pictures(run: _Run, stage: PlannedStage) -> Any:
    from stages.tokenizer_program import tokenizer_pictures
    from stages.train_tokenizer import TokenizerTask

    task = TokenizerTask(config=stage.spec.config, datasets=run.inputs(stage, "datasets"), vision=None, start=None)
    return tokenizer_pictures(task)


def _decoder_pictures(run: _Run, stage: PlannedStage) -> Any:
    from stages.decoder_program import TokenizedPictures
    from stages.train_decoder import DecoderTask

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
TRAININGS: Mapping[str, Callable[..., Steps]] = {
    **dict.fromkeys(_PICTURES, _picture_steps),
    "train_mllm": _mllm_steps,
}
