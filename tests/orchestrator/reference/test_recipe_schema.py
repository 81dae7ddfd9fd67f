"""The JSON Schema of recipes accepts every built-in recipe and refuses what the loader refuses by its form."""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from orchestrator.reference.recipe_schema import recipe_schema
from stages import STAGE_KINDS
from tests.end_to_end.desk import TINY

RECIPES = sorted((Path(__file__).parents[3] / "stages" / "recipes").glob("*.yaml"))
SMALL: dict[str, Any] = {
    "name": "small",
    "stages": {
        "web": {"kind": "ingest", "config": {"read": {"source": "web"}, "paths": ["data"]}},
        "kept": {
            "kind": "curate",
            "inputs": {"records": "web"},
            "config": {"anchors": [[64, 64]]},
            "gates": {"keep_share": {"at_least": 0.5}},
            "retry": None,
        },
    },
}


@lru_cache
def validator() -> Draft202012Validator:
    schema = recipe_schema(STAGE_KINDS)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("file", [*RECIPES, TINY], ids=lambda file: file.stem)
def test_built_in_recipes_are_valid(file: Path) -> None:
    assert [error.message for error in validator().iter_errors(yaml.safe_load(file.read_text()))] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("nam", "x"),
        ("name", "-x"),
        ("format", 99),
        ("stages", {}),
        ("stages.2nd", {"kind": "ingest", "config": {"read": {"source": "web"}}}),
        ("stages.kept.kind", "curat"),
        ("stages.kept.inputs", {}),
        ("stages.kept.inputs.record", "web"),
        ("stages.kept.inputs.records", 3),
        ("stages.kept.config", None),
        ("stages.kept.config.min_sid", 3),
        ("stages.kept.config.min_side", "64"),
        ("stages.kept.config.min_side", 64.5),
        ("stages.kept.config.near_duplicates", 1),
        ("stages.kept.config.anchors", [[64]]),
        ("stages.kept.config.anchors", [[64, 64, 64]]),
        ("stages.kept.gates.keep_share.at_lest", 0.5),
        ("stages.kept.retry", {"attempt": 3}),
        ("stages.kept.resource", {}),
        ("stages.kept.gates.keep_share.severity", "eror"),
    ],
)
def test_a_mistake_is_refused(path: str, value: object) -> None:
    assert validator().is_valid(SMALL)
    wrong = copy.deepcopy(SMALL)
    *folders, name = path.split(".")
    place: Any = wrong
    for folder in folders:
        place = place[folder]
    place[name] = value
    assert not validator().is_valid(wrong)


def test_comments_and_defaults_reach_the_editor() -> None:
    definitions: Any = recipe_schema(STAGE_KINDS)["$defs"]
    side = definitions["CurationConfig"]["properties"]["min_side"]
    assert side == {"type": "integer", "description": "pixels, upright", "default": 64}
    assert definitions["stage_curate"]["properties"]["kind"] == {"const": "curate"}
