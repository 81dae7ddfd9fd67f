"""What is kept of trainings whose data go: records of their exposure, and clean checkpoints to continue from."""

import logging
from collections.abc import Collection, Iterator

import pyarrow.parquet as pq

from data_pipelines.datasets.reader import CuratedDataset, is_table
from data_pipelines.provenance.questions import Questions
from orchestrator.artifacts.checkpoints import kept_steps
from orchestrator.artifacts.restarts import restart_in
from orchestrator.artifacts.takedowns import Restart, TaintedArtifact, payload_inputs
from orchestrator.errors import OrchestratorError
from orchestrator.history.run_status import list_runs
from orchestrator.learning import Exposures
from orchestrator.planning.plan import Plan, PlannedStage
from orchestrator.recipe.loading import Kinds
from orchestrator.store.commits import head
from orchestrator.store.layout import checkpoint_site
from orchestrator.workspace import Workspace
from stages.provenance.exposure_records import Row, find_record, put_record
from stages.provenance.run_artifacts import RunArtifacts, own_exposures
from stages.provenance.trace import DATASET, Trace, trace_run

log = logging.getLogger(__name__)

NUM_SEARCHED_RUNS = 10_000
GROUP_SAMPLES = 1_000_000  # whose steps are computed at once: about 1 GB


def find_restarts(
    workspace: Workspace, kinds: Kinds, digests: frozenset[str], tainted: Collection[TaintedArtifact]
) -> list[Restart]:
    """The newest clean checkpoint of each training whose data go, finished or not, that has one.

    A checkpoint is clean if none of its steps consumed one of the samples or images, and no model that it began with,
    or used, is tainted. A finished training that is not tainted stays as it is and needs none.
    """
    models = {artifact.fingerprint for artifact in tainted if artifact.is_kept}
    restarts: list[Restart] = []
    for plan, trainings in _trainings(workspace, kinds, going=_going(tainted)):
        candidates = [
            stage
            for stage in trainings
            if (stage.fingerprint in models or workspace.artifacts.find(stage.key) is None)
            and kept_steps(workspace.store, stage.key)
        ]
        if not candidates:
            continue
        try:
            trace = trace_run(workspace, plan, Questions(digests=set(digests)))
        except (OrchestratorError, ValueError) as error:
            log.warning("recipe %s: no clean checkpoints can be told: %s", plan.recipe, error)
            continue
        for stage in candidates:
            step = newest_clean(stage, trace, models)
            restart = None if step is None else _restart(workspace, stage, step)
            restarts += [restart] if restart else []
    return sorted(restarts, key=lambda restart: restart.key)


def newest_clean(stage: PlannedStage, trace: Trace, tainted_models: Collection[str]) -> int | None:
    """The step of the newest checkpoint that saw nothing, itself or through a model; None: none is kept, or known."""
    if stage.id in trace.unknown or not set(payload_inputs(stage.payload)).isdisjoint(tainted_models):
        return None
    clean = (found.step for found in trace.checkpoints if found.stage == stage.id and not found.saw)
    return max(clean, default=None)


def record_exposures(workspace: Workspace, kinds: Kinds, going: Collection[str]) -> int:
    """Record what the trainings learned from that read artifacts which will go, by fingerprint. Returns their number.

    A training that cannot be told any more is left out, with a warning.
    """
    count = 0
    for plan, trainings in _trainings(workspace, kinds, going=going):
        artifacts = RunArtifacts(workspace, plan)
        for stage in trainings:
            learned = stage.spec.kind.learned
            begun = artifacts.has_artifact(stage) or artifacts.kept_checkpoints(stage)
            if not begun or learned is None or learned.exposures is None or not artifacts.is_traceable(stage):
                continue
            if find_record(workspace.store, stage.fingerprint) is not None:
                continue
            try:
                num_steps, restart = own_exposures(artifacts, stage, {}).num_steps, restart_in(stage.payload)
                groups = _groups(artifacts, stage)
                put_record(workspace.store, stage.fingerprint, num_steps, groups, restart=restart)
                count += 1
            except (OrchestratorError, ValueError) as error:
                log.warning("%s: no record of its exposure can be kept: %s", stage.id, error)
    return count


def _going(tainted: Collection[TaintedArtifact]) -> set[str]:
    return {artifact.fingerprint for artifact in tainted if not artifact.is_kept}


def _trainings(
    workspace: Workspace, kinds: Kinds, *, going: Collection[str]
) -> Iterator[tuple[Plan, list[PlannedStage]]]:
    """The plans of runs, newest first, with their trainings that read one of these artifacts; each training once."""
    known: set[str] = set()
    for run in list_runs(workspace.database, limit=NUM_SEARCHED_RUNS) if going else ():
        try:
            plan = workspace.plan_of(run.run_id, kinds, allow_changed_kinds=True)
        except OrchestratorError:
            continue  # a takedown plan names such runs
        found = [
            stage
            for stage in plan.stages
            if stage.spec.kind.learned is not None
            and stage.spec.kind.learned.from_samples
            and stage.fingerprint not in known
            and not set(payload_inputs(stage.payload)).isdisjoint(going)
        ]
        known.update(stage.fingerprint for stage in found)
        if found:
            yield plan, found


def _restart(workspace: Workspace, stage: PlannedStage, step: int) -> Restart | None:
    commit = head(workspace.store, checkpoint_site(stage.key, step)).commit
    sha256 = commit.record.get("manifest_sha256") if commit else None
    if not isinstance(sha256, str):
        return None
    return Restart(stage_kind=stage.key.stage_kind, fingerprint=stage.fingerprint, step=step, manifest_sha256=sha256)


def _groups(artifacts: RunArtifacts, stage: PlannedStage) -> Iterator[Iterator[Row]]:
    """The rows of the record, of `GROUP_SAMPLES` samples at a time."""
    samples: dict[str, tuple[str, ...]] = {}
    for sample_id, images in _kept_samples(artifacts, stage):
        samples[sample_id] = images
        if len(samples) >= GROUP_SAMPLES:
            yield _rows(own_exposures(artifacts, stage, samples), samples)
            samples = {}
    yield _rows(own_exposures(artifacts, stage, samples), samples)


def _rows(exposures: Exposures, samples: dict[str, tuple[str, ...]]) -> Iterator[Row]:
    return ((name, samples[name], list(steps)) for name, steps in sorted(exposures.steps.items()) if name in samples)


def _kept_samples(artifacts: RunArtifacts, stage: PlannedStage) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(id, digests of its images) of each kept sample of the datasets that a training read."""
    slots = [name for name, slot in stage.spec.kind.inputs.items() if slot.kind == DATASET]
    for folder in (folder for slot in slots for folder in artifacts.training(stage).inputs(slot, is_table)):
        for shard in CuratedDataset(folder).shards:
            path = folder / "ledger" / f"{shard}.parquet"
            table = pq.read_table(path, columns=["sample_id", "images", "verdict"], use_threads=False)
            for row in table.to_pylist():
                if row["verdict"] == "keep":
                    yield row["sample_id"], tuple(row["images"] or ())
