"""Resolves `RUN`, `RUN:STAGE` and the first digits of an identity, as given on the command line."""

from collections.abc import Mapping
from typing import Any

from orchestrator.artifacts.artifact_store import ArtifactStore, StoredArtifact
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.errors import RecipeError
from orchestrator.history.database import Database
from orchestrator.history.run_status import RunStatus, RunSummary, list_runs, newest_run, run_status
from orchestrator.recipe.suggestions import expectation
from orchestrator.store.layout import ARTIFACTS, stored_keys

NUM_SEARCHED_RUNS = 10_000
MIN_PREFIX = 4  # hex digits of an identity


def find_run(database: Database, name: str | None) -> RunSummary:
    """The run with this id, or the only one with this prefix of its id, or the newest one of the recipe with this name.

    Without a name: the newest run.

    Raises:
        RecipeError: there is none, or more than one.
    """
    if name is None:
        newest = newest_run(database)
        if newest is None:
            raise RecipeError("found no run in the database; start one with `illume run RECIPE`")
        return newest
    known = list_runs(database, limit=NUM_SEARCHED_RUNS)
    found = [run for run in known if run.run_id == name] or [run for run in known if run.run_id.startswith(name)]
    of_recipe = [run for run in known if run.recipe == name][:1]
    if len(found) > 1:
        raise RecipeError(
            f"run {name!r}: found {len(found)} with this prefix: {', '.join(run.run_id for run in found[:5])}"
        )
    if not found and not of_recipe:
        names = [run.run_id for run in known[:5]] + [run.recipe for run in known[:50]]
        raise RecipeError(f"found no run {name!r}; {expectation(name, set(names))}; `illume status` lists the runs")
    return (found or of_recipe)[0]


def find_artifact(artifacts: ArtifactStore, database: Database, target: str) -> StoredArtifact:
    """A committed artifact, by `RUN:STAGE` or by the first digits of its identity.

    Raises:
        RecipeError: there is none, or more than one.
    """
    if ":" in target:
        run, _, stage_id = target.rpartition(":")
        return artifact_of_stage(artifacts, run_status(database, find_run(database, run).run_id), stage_id)
    prefix = target.lower()
    if len(prefix) < MIN_PREFIX or not set(prefix) <= set("0123456789abcdef"):
        raise RecipeError(
            f"{target!r}: expected RUN:STAGE, or at least {MIN_PREFIX} digits of an identity from `illume plan`"
        )
    keys = [key for key in stored_keys(artifacts.store, ARTIFACTS) if key.fingerprint.startswith(prefix)]
    found = [stored for key in keys if (stored := artifacts.stored(key)) is not None]
    if len(found) != 1:
        kinds = ", ".join(f"{stored.manifest.stage_kind} {stored.manifest.fingerprint[:16]}" for stored in found[:5])
        raise RecipeError(f"{target!r}: found {len(found)} artifacts, expected one{': ' + kinds if found else ''}")
    return found[0]


def artifact_of_stage(artifacts: ArtifactStore, status: RunStatus, stage_id: str) -> StoredArtifact:
    """The committed artifact of a stage.

    Raises: RecipeError: the run has no such stage, or the stage has no committed artifact.
    """
    stages = {stage.stage_id: stage for stage in status.stages}
    if stage_id not in stages:
        valid = expectation(stage_id, stages.keys())
        raise RecipeError(f"run {status.run.run_id}: found no stage {stage_id!r}; {valid}")
    stage = stages[stage_id]
    stored = artifacts.stored(stage.key)
    if stored is None:
        raise RecipeError(
            f"run {status.run.run_id}: stage {stage_id!r} has no artifact; found it {stage.state.lower()}, "
            "expected it to be done; continue with `illume resume`"
        )
    return stored


def planned_stages(artifacts: ArtifactStore, run: RunSummary) -> list[Mapping[str, Any]]:
    """The saved stages of the run's plan.

    Raises:
        RecipeError: the store has no such plan.
    """
    plan: Mapping[str, Any] | None = RunRecords(artifacts.store).plan(run.plan_digest)
    if plan is None:
        raise RecipeError(f"run {run.run_id}: its plan plans/{run.plan_digest}.json is not in {artifacts.store.url}")
    return list(plan["stages"])
