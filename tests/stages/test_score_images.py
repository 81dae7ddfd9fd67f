"""Scores of images: computed once, whatever bounds a curation then sets on them."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.errors import PrecheckError
from orchestrator.stage import Location
from stages.curation.scoring_config import ScoreImagesConfig, ScorerConfig
from stages.score_images import SCORE_IMAGES, sources
from tests.data_pipelines.curation.curated import drawn, encoded
from tests.data_pipelines.scoring.tiny_scorers import write_classifier, write_clip
from tests.end_to_end.desk import Desk

RECIPE = """
name: scored
stages:
  read: {kind: ingest, config: {read: {source: a}, paths: [lines.jsonl], images: [pictures]}}
  scored:
    kind: score_images
    inputs: {records: read}
    config:
      scorers:
        - {name: fit, kind: similarity, model: clip, embed: true}
  kept:
    kind: curate
    inputs: {records: read, scores: scored}
    config: {anchors: [[64, 64]], min_side: 32, score_bounds: {fit: {at_least: -2}}}
"""
SAFETY = "{name: safe, kind: classifier, model: classifier, label: safe}"
FIT = "{name: fit, kind: similarity, model: clip, embed: true}"


def scorer(name: str = "fit", **given: Any) -> ScorerConfig:
    return ScorerConfig(**{"name": name, "kind": "similarity", "model": Location("clip"), **given})


def test_every_file_that_a_model_is_loaded_from_is_part_of_the_identity(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip")
    (clip / "README.md").write_text("words")
    found = sources(ScoreImagesConfig(scorers=(scorer(model=Location(str(clip))),)))
    names = {name.removeprefix("fit/model/") for name in found}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= names
    assert not {"README.md"} & names
    (clip / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no safetensors; other weights are not read, convert them first"):
        sources(ScoreImagesConfig(scorers=(scorer(model=Location(str(clip))),)))


def test_a_label_that_the_model_does_not_have_is_refused_before_anything_runs(tmp_path: Path) -> None:
    place = Location(str(write_classifier(tmp_path / "classifier")))
    config = ScoreImagesConfig(scorers=(scorer(kind="classifier", model=place, label="nsfw"),))
    assert SCORE_IMAGES.precheck is not None
    with pytest.raises(PrecheckError, match="has no label 'nsfw'; expected one of safe, unsafe, watermark"):
        SCORE_IMAGES.precheck(config, {})


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Four records with an image each, scored by one of two small models; not curated."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "pictures").mkdir()
    write_clip(folder / "clip")
    write_classifier(folder / "classifier")
    lines = []
    for seed in range(4):
        (folder / "pictures" / f"{seed}.png").write_bytes(encoded(drawn(seed)))
        turns = [{"from": "human", "value": "<image>\nDescribe the image."}, {"from": "gpt", "value": f"shape {seed}"}]
        lines.append(json.dumps({"id": str(seed), "images": [f"{seed}.png"], "conversations": turns}))
    (folder / "lines.jsonl").write_text("\n".join(lines))
    (folder / "recipe.yaml").write_text(RECIPE)
    desk = Desk(folder=folder, environment={"ILLUME_TRACKING": "none"})
    desk.illume("run", "recipe.yaml", "--until", "scored")
    return desk


@pytest.mark.ray
def test_a_takedown_finds_the_scores_of_an_image_that_no_dataset_holds(desk: Desk) -> None:
    plan = desk.illume("takedown", "plan", "pictures/2.png", "--id", "T1", "--json").data
    assert {kind for kind, _ in plan["takedown"]["shards"]} == {"ingest", "score_images"}
    assert {artifact["stage_id"] for artifact in plan["takedown"]["tainted"]} == {"read", "scored"}


@pytest.mark.ray
def test_a_changed_bound_or_an_added_scorer_scores_nothing_again(desk: Desk) -> None:
    before, scored = desk.shard_records("score_images"), rows_of(desk, "score_images", "scores/fit")
    assert (len(before), len(scored)) == (1, 4)
    middle = sorted(row["fit"] for row in scored)[2]
    bound = ("--set", f"stages.kept.config.score_bounds.fit.at_least={middle}")
    assert desk.actions("recipe.yaml", *bound) == {"read": "reuse", "scored": "reuse", "kept": "run"}

    desk.illume("run", "recipe.yaml", *bound, "--set", f"stages.scored.config.scorers=[{FIT},{SAFETY}]")
    both = desk.shard_records("score_images")
    assert before < both
    assert len(both) == 2  # that of the added scorer
    ledger = rows_of(desk, "curate", "ledger")
    assert sorted(row["reason"] or "" for row in ledger) == ["", "", "score_too_low", "score_too_low"]
    scores = [json.loads(row["scores"]) for row in ledger]
    assert [row["fit"] for row in scores] == pytest.approx([row["fit"] for row in scored], 1e-5)
    assert all(0 < row["safe"] < 1 for row in scores)


def rows_of(desk: Desk, stage_kind: str, folder: str) -> list[dict[str, Any]]:
    """The rows of all tables in a folder of the newest artifact of a stage kind."""
    commits = (desk.store / "artifacts" / stage_kind).glob("*/*/COMMIT")
    newest = max(commits, key=lambda commit: commit.stat().st_mtime_ns).parent
    return [
        row for file in newest.glob(f"attempts/*/data/{folder}/*.parquet") for row in pq.read_table(file).to_pylist()
    ]
