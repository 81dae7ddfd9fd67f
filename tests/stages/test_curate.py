"""The metrics of a curation: every reason has a share that a recipe can bound, and unknown names are refused."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipelines.curation import caption_rules as captions
from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.datasets.reasons import REASONS
from orchestrator.errors import PrecheckError, RecipeError
from orchestrator.execution.gates import broken_gates
from orchestrator.recipe.loading import load_recipe
from orchestrator.stage import Recipe
from stages import STAGE_KINDS
from stages.curate import CURATE, _evaluation_sets, curation_metrics
from tests.data_pipelines.curation.curated import drawn, encoded
from tests.end_to_end.desk import Desk

RECIPE = """
name: few
stages:
  read: {kind: ingest, config: {read: {source: a}, paths: [a]}}
  kept:
    kind: curate
    inputs: {records: read}
    config: {anchors: [[8, 8]]}
    gates: """


def loaded(folder: Path, gates: str) -> Recipe:
    (folder / "few.yaml").write_text(RECIPE + gates)
    return load_recipe(folder / "few.yaml", STAGE_KINDS)


def test_a_bound_on_a_reason_that_does_not_exist_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        loaded(tmp_path, "{reason/caption_pi_share: {at_most: 0.01}}")
    assert "stages.kept.gates.reason/caption_pi_share: the kind curate has no such metric" in str(caught.value)
    assert "did you mean 'reason/caption_pii_share'?" in str(caught.value)


def test_a_reason_that_does_not_occur_counts_as_0(tmp_path: Path) -> None:
    spec = loaded(tmp_path, "{reason/caption_pii_share: {at_most: 0.01}, keep_share: {at_least: 0.5}}").stages[1]
    assert broken_gates(spec, {"rows": 10.0, "keep_share": 0.9}) == ([], [])
    errors, _ = broken_gates(spec, {"rows": 10.0, "keep_share": 0.9, "reason/caption_pii_share": 0.1})
    assert errors == ["gates.reason/caption_pii_share: found 0.1, expected at most 0.01"]


def test_every_reason_that_the_code_can_give_is_known() -> None:
    found = {name for name, *_ in captions._CHECKS}
    for path in Path(captions.__file__).parents[1].rglob("*.py"):  # all of data_pipelines
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found |= {
                    keyword.value.value
                    for keyword in node.keywords
                    if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant)
                }
    assert len(found) > 30
    assert found - set(REASONS) == set(), "add them to data_pipelines/datasets/reasons.py"
    assert len(set(REASONS)) == len(REASONS)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The part of a context and of its artifacts that is read before any work begins."""

    stage_id: str = "kept"
    slots: Mapping[str, Sequence[str]]

    def inputs(self, slot: str) -> Sequence[Any]:
        return [SimpleNamespace(fingerprint=fingerprint) for fingerprint in self.slots.get(slot, ())]


def test_training_on_an_evaluation_set_itself_is_refused() -> None:
    with pytest.raises(PrecheckError, match="kept: the inputs records and evaluation share an artifact"):
        _evaluation_sets(Inputs(slots={"records": ["a", "b"], "evaluation": ["b"]}))  # type: ignore[arg-type]  # a part
    once = _evaluation_sets(Inputs(slots={"records": ["a"], "evaluation": ["c", "b", "c"]}))  # type: ignore[arg-type]  # a part
    assert [artifact.fingerprint for artifact in once] == ["c", "b"]
    assert _evaluation_sets(Inputs(slots={"records": ["a"]})) == []  # type: ignore[arg-type]  # a part


def test_an_evaluation_set_is_wired_and_bounded_in_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(
        RECIPE.replace("{records: read}", "{records: read, evaluation: [bench]}").replace(
            "  kept:", "  bench: {kind: ingest, config: {read: {source: b, format: images_only}, paths: [b]}}\n  kept:"
        )
        + "{reason/contaminated_share: {at_most: 0.0, severity: warning}, evaluation_unread: {at_most: 0}}"
    )
    spec = load_recipe(tmp_path / "few.yaml", STAGE_KINDS).stages[-1]
    assert spec.inputs["evaluation"] == ("bench",)
    errors, warnings = broken_gates(spec, {"rows": 10.0, "reason/contaminated_share": 0.1, "evaluation_unread": 2.0})
    assert (len(errors), len(warnings)) == (1, 1)


def test_shares_are_those_of_all_records() -> None:
    totals = {"rows": 8, "keep": 6, "drop": 2, "duplicate": 0, "near_duplicate": 0, "mirrored": 0}
    found = curation_metrics(totals, {"rows": 8.0, "kept_bytes": 512.0, "reason too_small": 2.0})
    assert (found["keep_share"], found["drop_share"], found["reason/too_small_share"]) == (0.75, 0.25, 0.25)
    assert found.keys() <= CURATE.metric_names


@pytest.mark.ray
def test_a_curation_returns_known_metrics_only_and_the_share_of_each_reason(finished: Desk) -> None:
    manifest = next(
        artifact.manifest for artifact in finished.artifacts().values() if artifact.manifest.stage_kind == "curate"
    )
    assert manifest.metrics.keys() <= CURATE.metric_names
    reasons = {name: share for name, share in manifest.metrics.items() if name.startswith("reason/")}
    assert reasons
    for name, share in reasons.items():
        count = manifest.metrics[name.replace("reason/", "reason ").removesuffix("_share")]
        assert share == count / manifest.metrics["rows"] > 0


STORED_SMALLER = """
name: smaller
stages:
  read: {kind: ingest, config: {read: {source: a}, paths: [lines.jsonl], images: [pictures]}}
  kept: {kind: curate, inputs: {records: read}, config: {anchors: [[64, 64]], min_side: 32, max_stored_side: 100}}
"""


@pytest.mark.ray
def test_images_are_stored_smaller_and_written_again_only_if_they_change(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    lines = []
    for seed, size in enumerate([(320, 300), (90, 80)]):  # height and width
        (tmp_path / "pictures" / f"{seed}.png").write_bytes(encoded(drawn(seed, size)))
        turns = [{"from": "human", "value": "<image>\nDescribe the image."}, {"from": "gpt", "value": f"shape {seed}"}]
        lines.append(json.dumps({"id": str(seed), "images": [f"{seed}.png"], "conversations": turns}))
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    (tmp_path / "recipe.yaml").write_text(STORED_SMALLER)
    desk = Desk(folder=tmp_path)
    desk.illume("run", "recipe.yaml")
    (made,) = (desk.store / "artifacts" / "curate").glob("*/*/attempts/*/data")
    dataset = CuratedDataset(made)
    (shard,) = dataset.shards
    stored = [stored_sample.sample.images[0] for stored_sample in dataset.stored_samples(shard, dataset.rows(shard))]
    assert sorted((image.width, image.height) for image in stored) == [(80, 90), (94, 100)]
    before = desk.shard_records("curate")
    assert len(before) == 3  # measured, judged, written
    desk.illume("run", "recipe.yaml", "--set", "stages.kept.config.stored_quality=50")
    assert len(desk.shard_records("curate") - before) == 2  # decoded and written again; the verdicts are the same
