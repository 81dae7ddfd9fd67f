"""The configs of the published recipes, as a planner sees them."""

from functools import cache
from pathlib import Path

from orchestrator.cost import ConfigTree, CostFacts
from orchestrator.recipe.loading import load_recipe
from orchestrator.stage import Recipe
from stages import STAGE_KINDS

RECIPES = Path(__file__).resolve().parents[3] / "stages" / "recipes"


@cache
def recipe(name: str, *overrides: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", STAGE_KINDS, list(overrides))


def tree(found: Recipe, stage_id: str) -> ConfigTree:
    spec = next(stage for stage in found.stages if stage.id == stage_id)
    inputs = {slot: tuple(tree(found, name) for name in ids) for slot, ids in spec.inputs.items()}
    return ConfigTree(config=spec.config, inputs=inputs)


def facts(name: str, stage_id: str, *overrides: str) -> CostFacts:
    found = recipe(name, *overrides)
    spec = next(stage for stage in found.stages if stage.id == stage_id)
    assert spec.kind.cost is not None
    return spec.kind.cost(tree(found, stage_id), spec.execution)
