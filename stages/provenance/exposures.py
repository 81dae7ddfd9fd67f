"""In which steps the trainings of a store consumed samples, found through the plans of the runs that name them."""

from dataclasses import dataclass

from data_pipelines.provenance.questions import Questions
from orchestrator.errors import OrchestratorError
from orchestrator.history.run_status import list_runs
from orchestrator.planning.plan import PlannedStage
from orchestrator.recipe.loading import Kinds
from orchestrator.workspace import Workspace
from stages.provenance.trace import Trace, trace_run

NUM_SEARCHED_RUNS = 10_000


@dataclass(frozen=True, kw_only=True)
class TrainingExposure:
    """The steps in which a training consumed the samples."""

    steps: tuple[int, ...] = ()
    problem: str = ""  # why the steps could not be computed


def training_exposures(
    workspace: Workspace, kinds: Kinds, wanted: set[str], digests: frozenset[str]
) -> tuple[dict[str, TrainingExposure], list[str]]:
    """The exposure of each wanted training, by fingerprint, and the runs whose plan cannot be read, with the reason.

    A training that no readable plan names is absent.
    """
    exposures: dict[str, TrainingExposure] = {}
    unreadable: list[str] = []
    for run in list_runs(workspace.database, limit=NUM_SEARCHED_RUNS):
        if wanted <= exposures.keys():
            break
        try:
            plan = workspace.plan_of(run.run_id, kinds, allow_changed_kinds=True)
        except OrchestratorError as error:
            unreadable.append(f"run {run.run_id}: {error}")
            continue
        trainings = [stage for stage in plan.stages if stage.fingerprint in wanted - exposures.keys()]
        if not trainings:
            continue
        try:
            trace = trace_run(workspace, plan, Questions(digests=set(digests)))
        except (OrchestratorError, ValueError) as error:
            exposures.update({str(stage.fingerprint): TrainingExposure(problem=str(error)) for stage in trainings})
            continue
        exposures.update({str(stage.fingerprint): _exposure(stage, trace) for stage in trainings})
    return exposures, unreadable


def _exposure(stage: PlannedStage, trace: Trace) -> TrainingExposure:
    if stage.id in trace.unknown:
        return TrainingExposure(problem=_unknown_because(stage, trace))
    steps = {step for exposure in trace.exposures if exposure.stage == stage.id for step in exposure.steps}
    return TrainingExposure(steps=tuple(sorted(steps)))


def _unknown_because(stage: PlannedStage, trace: Trace) -> str:
    if stage.id in trace.problems:
        return trace.problems[stage.id]
    learned = stage.spec.kind.learned
    if learned is None or learned.exposures is None:
        return f"stage kind {stage.spec.kind.name!r} does not say which samples it learned from"
    return "its data are gone, or older code made it"
