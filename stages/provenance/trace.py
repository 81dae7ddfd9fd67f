"""Traces samples through a run: datasets, token files, steps of every training, checkpoints and models.

What saw which sample is asked of the stage kinds (`StageKind.learned`): those of others are traced like built-in ones.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from data_pipelines.datasets.tombstones import DIGEST_MARKS
from data_pipelines.provenance.questions import Questions
from data_pipelines.provenance.sample_search import Match, TokenRow, find_everywhere, find_tokens
from orchestrator.artifacts.takedowns import Takedown, read_takedowns, taken_down_text
from orchestrator.errors import PluginError, RecipeError
from orchestrator.learning import Exposures, Samples
from orchestrator.planning.plan import Plan, PlannedStage
from orchestrator.workspace import Workspace
from stages.provenance.exposure_records import UnknownExposureError
from stages.provenance.run_artifacts import RunArtifacts, exposures_of

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


def trace_run(workspace: Workspace, plan: Plan, questions: Questions) -> Trace:
    """Trace all samples that match a question through the run of a plan; the run may be unfinished.

    Raises: RecipeError if the run has no dataset yet.
    """
    artifacts = RunArtifacts(workspace, plan)
    takedowns = read_takedowns(workspace.store)
    datasets = artifacts.finished(DATASET)
    removed = {stage.id: taken_down_text(takedowns, stage.fingerprint) for stage in plan.stages}
    is_taken_down = any(removed.values()) or any(_naming(digest, takedowns) for digest in questions.digests)
    if not datasets and not is_taken_down:
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
    digests = frozenset(match.sample_id for matches in found.matches.values() for match in matches) | questions.digests
    naming = {question: _naming(questions.images.get(question, question), takedowns) for question in found.unanswered}
    trace.taken_down = {question: named[0].signature for question, named in naming.items() if named}
    for stage in plan.stages:
        learned = stage.spec.kind.learned
        if learned is None or not learned.from_samples:
            continue
        is_known = learned.exposures is not None and artifacts.is_traceable(stage)
        if not is_known and (seen := _recorded(artifacts, stage, digests, questions, trace)) is not None:
            checkpoints[stage.id] = seen
        elif artifacts.has_artifact(stage) and not is_known:
            if not _is_cleared(stage, found.matches, takedowns):
                known = artifacts.known_takedowns(stage)
                judge_by_records(stage, trace, [named for named in naming.values() if named], known)
        elif learned.exposures is not None:
            try:
                checkpoints[stage.id] = _trace_training(artifacts, stage, samples, digests, trace)
            except (PluginError, UnknownExposureError) as error:  # the others are traced nevertheless
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


def _recorded(
    artifacts: RunArtifacts, stage: PlannedStage, digests: frozenset[str], questions: Questions, trace: Trace
) -> dict[int, bool] | None:
    """As `_trace_training`, of a training whose data are gone, from the record of its exposure.

    None: there is no record, or questions are left that it cannot answer, as they ask for names or look-alikes.
    """
    record = artifacts.exposure_record(stage.fingerprint)
    if record is None:
        return None
    try:
        exposures = record.exposures(digests)
    except UnknownExposureError:
        return None
    asked = {questions.images.get(question, question) for question in trace.unanswered}
    if not exposures.steps and (questions.near or not asked <= questions.digests):
        return None
    trace.recorded[stage.id] = "by the record of its exposure, as its data are gone"
    return _add_exposures(artifacts, stage, exposures, trace)


def _trace_training(
    artifacts: RunArtifacts, stage: PlannedStage, samples: Samples, digests: frozenset[str], trace: Trace
) -> dict[int, bool]:
    """Add the exposures of a training to the trace. Returns for each kept checkpoint whether it saw a sample."""
    if not artifacts.kept_checkpoints(stage) and not artifacts.has_artifact(stage):
        return {}
    return _add_exposures(artifacts, stage, exposures_of(artifacts, stage, samples, digests), trace)


def _add_exposures(artifacts: RunArtifacts, stage: PlannedStage, exposures: Exposures, trace: Trace) -> dict[int, bool]:
    trace.steps[stage.id] = exposures.num_steps
    for sample_id, steps in sorted(exposures.steps.items()):
        if len(steps):
            trace.exposures.append(Exposure(stage=stage.id, sample_id=sample_id, steps=tuple(steps)))
    return {step: exposures.is_in_checkpoint(step) for step in artifacts.kept_checkpoints(stage)}


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
