"""What was recorded when identities held their defaults and some names were others is still read.

The files in `recorded/` are those of a run of such a time: its plan, the manifest and the shard of its ingest.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.errors import RecipeError
from orchestrator.planning.plan import make_plan
from orchestrator.planning.plan_file import plan_from_json
from orchestrator.planning.stage_identity import PlanView
from orchestrator.stage import Recipe
from orchestrator.store.layout import shard_site
from orchestrator.store.manifests import manifest_from_bytes
from orchestrator.store.store import open_store
from stages import STAGE_KINDS

RECORDED = Path(__file__).with_name("recorded")
PLAN: Any = json.loads((RECORDED / "plan.json").read_text(encoding="utf-8"))
EXPECTED_REASONS = {
    "ingested": ["version 2 -> 4"],
    "curated": ["version 5 -> 7", "upstream re-runs: ingested"],
    "vision": ["version 1 -> 2", "upstream re-runs: curated"],
}


def test_a_plan_is_shown_with_todays_names_and_cannot_be_resumed() -> None:
    shown = plan_from_json(PLAN, STAGE_KINDS, allow_changed_kinds=True)
    assert [stage.fingerprint for stage in shown.stages] == [stage["fingerprint"] for stage in PLAN["stages"]]
    assert shown.stage("vision").spec.config.loop.micro_batches_per_step == 1
    assert shown.stage("curated").spec.config.mirrored_images
    with pytest.raises(RecipeError, match=r"stage 'ingested' would make something else now.*make a new plan"):
        plan_from_json(PLAN, STAGE_KINDS)


def test_the_next_plan_names_only_the_versions() -> None:
    """No setting counts as changed, although identities leave out defaults and have new names."""
    before = plan_from_json(PLAN, STAGE_KINDS, allow_changed_kinds=True)
    identities = {stage["id"]: stage["payload"] for stage in PLAN["stages"]}
    view = PlanView(find=lambda _key: None, previous=lambda _recipe, stage_id, _kind: identities[stage_id])
    sources = PLAN["stages"][0]["payload"]["sources"]
    recipe = Recipe(name="mini", stages=tuple(stage.spec for stage in before.stages))
    after = make_plan(recipe, PlanView(**{**vars(view), "sources": lambda spec: _sources(spec.id, sources)}))
    assert {stage.id: [str(reason) for reason in stage.reasons] for stage in after.stages} == EXPECTED_REASONS


def _sources(stage_id: str, sources: dict[str, str]) -> dict[str, str]:
    return sources if stage_id == "ingested" else {}


def test_a_manifest_has_its_metrics() -> None:
    manifest = manifest_from_bytes((RECORDED / "manifest.json").read_bytes(), "manifest.json")
    assert (manifest.stage_kind, manifest.metrics["rows"], manifest.metrics["pictures"]) == ("ingest", 12.0, 6.0)


def test_a_shard_has_its_metrics(tmp_path: Path) -> None:
    data = (RECORDED / "shard.json").read_bytes()
    key = ArtifactKey("ingest", "a" * 64)
    store = open_store(tmp_path / "store")
    site = shard_site(key)
    assert store.put_new(site.commit_key(0), data)
    assert store.put_new(f"{site.data_key(json.loads(data)['attempt'])}/records/a.parquet", b"")
    (stored,) = ShardLedger(store=store, cache=tmp_path / "cache").all()
    assert stored.outcome.rows == 6
    assert stored.outcome.metrics == {"picture_bytes": 11007.0, "pictures": 6.0, "rejects": 0.0, "rows": 6.0}
