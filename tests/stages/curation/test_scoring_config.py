"""Scorers and the scores that a curation uses: mistakes are refused before anything runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipelines.curation.config import CurationConfig
from data_pipelines.scoring.bounds import ScoreBounds
from orchestrator.errors import PrecheckError, RecipeError
from orchestrator.recipe.loading import load_recipe
from orchestrator.shards import Shard
from stages import STAGE_KINDS
from stages.curate import CURATE
from stages.curation.scoring_config import (
    ScoreImagesConfig,
    ScorerConfig,
    check_use_of_scores,
    score_tables,
    with_scores,
)
from tests.stages.test_score_images import FIT, RECIPE, scorer


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        ("[]", "expected at least one, and each once"),
        ("[{name: fit, kind: classifier, model: m}]", "label: missing; expected with kind classifier"),
        ("[{name: fit, kind: similarity, model: m, label: x}]", "label: found one; expected with kind classifier"),
        ("[{name: fit, kind: aesthetic, model: m}]", "head: missing; expected with kind aesthetic"),
        ("[{name: fit, kind: classifier, model: m, label: x, embed: true}]", "only a scorer of the kind similarity"),
        ("[{name: entropy, kind: similarity, model: m}]", "name: 'entropy' is taken"),
        (f"[{FIT}, {FIT.replace('fit', 'again')}]", "more than one with embed: true, expected at most one"),
    ],
)
def test_impossible_scorers_are_refused_with_their_path(tmp_path: Path, scorers: str, message: str) -> None:
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
def test_a_curation_uses_only_scores_that_its_inputs_make(
    given: dict[str, Any], scorers: tuple[ScorerConfig, ...], message: str
) -> None:
    inputs = {"scores": tuple(ScoreImagesConfig(scorers=(scorer,)) for scorer in scorers)}
    with pytest.raises(PrecheckError, match=message):
        check_use_of_scores(CurationConfig(anchors=((64, 64),), **given), inputs)
    assert CURATE.precheck is check_use_of_scores


def test_measured_scores_can_be_bounded_without_a_model() -> None:
    bounds = {"entropy": ScoreBounds(at_least=3)}
    check_use_of_scores(CurationConfig(anchors=((64, 64),), score_bounds=bounds), {})


def scores(folder: str, *paths: str) -> Any:
    """The part of a scores artifact that is read."""
    entries = [SimpleNamespace(path=path, sha256=f"digest of {folder}/{path}") for path in paths]
    return SimpleNamespace(path=Path(folder), manifest=SimpleNamespace(files=entries))


def test_the_tables_of_a_shard_are_part_of_its_work_and_their_digests_of_its_identity() -> None:
    shard = Shard(name="a", items=(), identity={"records": "r"}, work={})
    first = scores("one", "scores/fit/a.parquet", "scores/fit/ab.parquet", "metrics.json")
    found = with_scores(shard, [first, scores("two", "scores/safe/a.parquet")])
    assert score_tables(found.work) == [Path("one/scores/fit/a.parquet"), Path("two/scores/safe/a.parquet")]
    assert found.identity["scores"] == {
        "scores/fit/a.parquet": "digest of one/scores/fit/a.parquet",
        "scores/safe/a.parquet": "digest of two/scores/safe/a.parquet",
    }


def test_without_scores_the_identity_stays_as_it_was() -> None:
    shard = Shard(name="a", items=(), identity={"records": "r"}, work={})
    assert with_scores(shard, []).identity == shard.identity


def test_scores_without_a_table_of_the_shard_are_refused() -> None:
    with pytest.raises(PrecheckError, match="the scores one have no table for the shard 'a'; let score_images read"):
        with_scores(Shard(name="a", items=()), [scores("one", "scores/fit/b.parquet")])
