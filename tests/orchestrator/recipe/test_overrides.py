"""Overrides change single values of a recipe; mistakes in them are named with the override."""

from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.recipe.test_loading import GOOD, Optimizer, load, message


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("stages.curated.config.min_side=128", lambda config: config.min_side == 128),
        ("stages.curated.config.rate=1e-3", lambda config: config.rate == 1e-3),
        ("stages.curated.config.anchors=[[7, 8]]", lambda config: config.anchors == ((7, 8),)),
        ("stages.curated.config.anchors[1][0]=9", lambda config: config.anchors == ((1, 2), (9, 4))),
        ("stages.curated.config.anchors.0.1=9", lambda config: config.anchors == ((1, 9), (3, 4))),
        ("stages.curated.config.limit=a=b", lambda config: config.limit == "a=b"),
        ("stages.curated.config.limit=", lambda config: config.limit is None),
    ],
)
def test_an_override_changes_one_value(override: str, read: Any, tmp_path: Path) -> None:
    assert read(load(tmp_path, GOOD, override).stages[1].config)


def test_an_override_below_a_default_keeps_the_rest_of_the_default(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, "stages.curated.config.optimizer.lr=5").stages[1].config
    assert config.optimizer == Optimizer(lr=5.0, betas=(0.1, 0.2))


def test_later_overrides_win_and_other_sections_can_be_set(tmp_path: Path) -> None:
    overrides = ["stages.ingested.resources.workers=3", "stages.ingested.resources.workers=4", "name=other"]
    recipe = load(tmp_path, GOOD, *overrides)
    assert (recipe.name, recipe.stages[0].resources.workers) == ("other", 4)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("min_side=3", "demo.yaml: min_side (from --set min_side=3): unknown key; expected one of: name, stages"),
        ("stages.curated", "--set stages.curated: expected stages.NAME.config.KEY=VALUE"),
        ("stages..x=1", "--set stages..x=1: expected stages.NAME.config.KEY=VALUE"),
        ("stages.curate.config.a=1", "found no stage 'curate'; did you mean 'curated'?"),
        ("stages.curated.config.min_sde=1", "(from --set stages.curated.config.min_sde=1): unknown key; did you mean"),
        ("stages.curated.config.optimiser.lr=1", "unknown key; did you mean 'optimizer'?"),
        ("stages.curated.config.min_side=big", "(from --set stages.curated.config.min_side=big): found 'big' (text)"),
        ("stages.curated.config.min_side.x=1", "stages.curated.config.min_side is 64, so nothing can be set below it"),
        ("stages.curated.config.anchors[2]=1", "stages.curated.config.anchors has no item 2; it has 2"),
        ("stages.curated.retry.attempts=0", "(from --set stages.curated.retry.attempts=0): attempts: found 0"),
        ("stages.curated.config.limit=[", "--set stages.curated.config.limit=[:1: broken YAML"),
    ],
)
def test_a_wrong_override_is_named(override: str, expected: str, tmp_path: Path) -> None:
    assert expected in message(tmp_path, GOOD, override)
