"""The stage that scores pictures: scored once, whatever a curation then asks of the scores."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_pipelines.curation.config import CurationConfig
from data_pipelines.scoring.bounds import ScoreBounds
from orchestrator.errors import PrecheckError, RecipeError
from orchestrator.recipe.loading import load_recipe
from orchestrator.stage import Location
from stages import STAGE_KINDS
from stages.curate import CURATE
from stages.curation.scoring_config import ScoreImagesConfig, ScorerConfig, check_use_of_scores
from stages.score_images import SCORE_IMAGES, sources
from tests.data_pipelines.curation.test_judge import encoded, picture
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


def test_every_file_that_a_model_is_loaded_from_decides_the_scores(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        ("[]", "expected at least one, and each once"),
        ("[{name: fit, kind: classifier, model: m}]", "label: missing; expected with kind classifier"),
        ("[{name: fit, kind: similarity, model: m, label: x}]", "label: found one; expected with kind classifier"),
        ("[{name: fit, kind: aesthetic, model: m}]", "head: missing; expected with kind aesthetic"),
        ("[{name: fit, kind: classifier, model: m, label: x, embed: true}]", "only a scorer of the kind similarity"),
        ("[{name: entropy, kind: similarity, model: m}]", "name: 'entropy' is taken"),
        (f"[{FIT}, {FIT.replace('fit', 'again')}]", "more than one keeps embeddings"),
    ],
)
def test_scorers_that_cannot_be_are_refused_with_their_place(tmp_path: Path, scorers: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError, match=message) as raised:
        load_recipe(tmp_path / "recipe.yaml", STAGE_KINDS, [f"stages.scored.config.scorers={scorers}"])
    assert "stages.scored.config" in str(raised.value)


@pytest.mark.parametrize(
    ("given", "scorers", "message"),
    [
        ({"score_bounds": {"fot": ScoreBounds(at_least=0)}}, (scorer(),), r"score_bounds\.fot: none .* mean 'fit'"),
        ({"score_bounds": {"fit": ScoreBounds(at_least=0)}}, (), r"score_bounds\.fit: none of its inputs makes this"),
        ({"semantic_distance": 0.1}, (scorer(),), "semantic_distance needs embeddings, but 0 scorers"),
        ({}, (scorer(), scorer()), "two of its inputs both make the score 'fit'"),
    ],
)
def test_a_curation_speaks_of_scores_that_it_gets(
    given: dict[str, Any], scorers: tuple[ScorerConfig, ...], message: str
) -> None:
    inputs = {"scores": tuple(ScoreImagesConfig(scorers=(one,)) for one in scorers)}
    with pytest.raises(PrecheckError, match=message):
        check_use_of_scores(CurationConfig(anchors=((64, 64),), **given), inputs)
    assert CURATE.precheck is check_use_of_scores


def test_measured_scores_can_be_bounded_without_a_model() -> None:
    bounds = {"entropy": ScoreBounds(at_least=3)}
    check_use_of_scores(CurationConfig(anchors=((64, 64),), score_bounds=bounds), {})


@pytest.mark.ray
def test_a_changed_bound_or_one_more_scorer_scores_nothing_again(tmp_path: Path) -> None:
    desk = desk_with_pictures(tmp_path)
    write_classifier(tmp_path / "classifier")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    desk.illume("run", "recipe.yaml")
    made = desk.shard_records("score_images")
    scored, ledger = rows_of(desk, "score_images", "scores/fit"), rows_of(desk, "curate", "ledger")
    assert len(made) == 1
    assert [row["verdict"] for row in ledger] == ["keep"] * 4
    assert [json.loads(row["scores"])["fit"] for row in ledger] == pytest.approx([row["fit"] for row in scored], 1e-5)

    middle = sorted(row["fit"] for row in scored)[2]
    desk.illume("run", "recipe.yaml", "--set", f"stages.kept.config.score_bounds.fit.at_least={middle}")
    assert desk.shard_records("score_images") == made
    assert sorted(row["reason"] or "" for row in rows_of(desk, "curate", "ledger")) == [
        "",
        "",
        "score_too_low",
        "score_too_low",
    ]

    desk.illume("run", "recipe.yaml", "--set", f"stages.scored.config.scorers=[{FIT},{SAFETY}]")
    both = desk.shard_records("score_images")
    assert made < both
    assert len(both) == 2
    assert all(0 < json.loads(row["scores"])["safe"] < 1 for row in rows_of(desk, "curate", "ledger"))


@pytest.mark.ray
def test_a_takedown_finds_the_scores_of_a_picture_that_no_dataset_holds(tmp_path: Path) -> None:
    desk = desk_with_pictures(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE[: RECIPE.index("  kept:")])
    desk.illume("run", "recipe.yaml")
    drawn = desk.illume("takedown", "plan", "pictures/2.png", "--id", "T1", "--json").data
    assert {kind for kind, _ in drawn["takedown"]["shards"]} == {"ingest", "score_images"}
    assert {one["stage_id"] for one in drawn["takedown"]["tainted"]} == {"read", "scored"}


def desk_with_pictures(folder: Path) -> Desk:
    """Four records with a picture each, and a small model that scores them."""
    (folder / "pictures").mkdir()
    write_clip(folder / "clip")
    lines = []
    for seed in range(4):
        (folder / "pictures" / f"{seed}.png").write_bytes(encoded(picture(seed)))
        turns = [{"from": "human", "value": "<image>\nDescribe the image."}, {"from": "gpt", "value": f"shape {seed}"}]
        lines.append(json.dumps({"id": str(seed), "images": [f"{seed}.png"], "conversations": turns}))
    (folder / "lines.jsonl").write_text("\n".join(lines))
    return Desk(folder=folder)


def rows_of(desk: Desk, stage_kind: str, folder: str) -> list[dict[str, Any]]:
    """Of all tables in a folder of the newest artifact that a kind has made."""
    commits = (desk.store / "artifacts" / stage_kind).glob("*/*/COMMIT")
    newest = max(commits, key=lambda commit: commit.stat().st_mtime_ns).parent
    return [
        row for file in newest.glob(f"attempts/*/data/{folder}/*.parquet") for row in pq.read_table(file).to_pylist()
    ]
