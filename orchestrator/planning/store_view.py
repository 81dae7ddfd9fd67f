"""Builds the `PlanView` of planning from a store and its index database."""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.artifact import JSON, ArtifactKey, Fingerprint, Manifest
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.restarts import has_restart
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.errors import CorruptArtifactError, RecipeError
from orchestrator.history.database.database import Database
from orchestrator.history.run_status import WorkSize, last_fingerprint, list_runs, typical_duration_s
from orchestrator.planning.code_digest import code_of
from orchestrator.planning.source_digests import DatabaseDigestCache, source_digests
from orchestrator.planning.stage_identity import PlanView
from orchestrator.stage import StageSpec

NUM_SEARCHED_RUNS = 20  # newest runs whose plans are searched for the identity of an artifact that is gone


def plan_view(
    artifacts: ArtifactStore, database: Database, *, on_absent: Callable[[str], None] | None = None
) -> PlanView:
    """The view: artifacts and identities from the store; history, estimates and cached digests from the database.

    `on_absent` is called with a message for each stage whose source files are missing; such stages are planned as never
    made. Without it they are an error, because nothing may run under a wrong identity.
    """
    cache = DatabaseDigestCache(database)

    def previous(recipe: str, stage_id: str, stage_kind: str) -> Mapping[str, JSON] | None:
        fingerprint = last_fingerprint(database, recipe=recipe, stage_id=stage_id, stage_kind=stage_kind)
        if fingerprint is None:
            return None
        manifest = artifacts.find(ArtifactKey(stage_kind, fingerprint))
        return manifest.payload if manifest else _planned_payload(artifacts, database, recipe, fingerprint)

    def estimate_s(recipe: str, stage: StageSpec, fingerprint: Fingerprint, rows: int | None) -> float | None:
        units = stage.kind.units(stage.config) if stage.kind.units is not None else None
        size = WorkSize(units=units, rows=rows)
        return typical_duration_s(database, recipe=recipe, stage_id=stage.id, fingerprint=fingerprint, size=size)

    def sources(stage: StageSpec) -> Mapping[str, str]:
        try:
            return source_digests(stage, cache)
        except RecipeError as error:
            if on_absent is None:
                raise
            on_absent(str(error))
            return {"absent": stage.id}

    ledger = ShardLedger(artifacts.store, artifacts.cache)

    def quarantined(stage_kind: str, manifest: Manifest) -> int:
        found = ledger.find_many(stage_kind, manifest.shards).values()
        return sum(entry.found_by != "stage" for stored in found for entry in stored.outcome.quarantined)

    return PlanView(
        quarantined=quarantined,
        find=artifacts.find,
        previous=previous,
        sources=sources,
        code=code_of,
        estimate_s=estimate_s,
        takedowns=read_takedowns(artifacts.store),
        has_restart=lambda restart: has_restart(artifacts.store, restart),
    )


def _planned_payload(
    artifacts: ArtifactStore, database: Database, recipe: str, fingerprint: str
) -> Mapping[str, JSON] | None:
    """The identity of an artifact that is gone, from a plan that contains it."""
    records = RunRecords(artifacts.store)
    for run in list_runs(database, limit=NUM_SEARCHED_RUNS):
        if run.recipe != recipe:
            continue
        try:
            plan: Mapping[str, Any] = records.plan(run.plan_digest) or {}
        except CorruptArtifactError:
            continue  # another plan may contain it; without one the reason is only less exact
        for stage in plan.get("stages", ()):
            if stage.get("fingerprint") == fingerprint:
                payload: Mapping[str, JSON] = stage["payload"]
                return payload
    return None
