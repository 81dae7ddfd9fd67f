import json
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.errors import RecipeError
from orchestrator.identity import canonical_json
from orchestrator.planning.plan_file import plan_digest, plan_from_json, plan_to_json
from tests.orchestrator.planning.test_plan import KIND, World, chain


@pytest.fixture
def world() -> World:
    """A world in which the chain was made once."""
    made = World(code={"stages/work.py": "1"})
    made.execute(made.plan(chain()))
    return made


def test_a_plan_survives_its_file(world: World) -> None:
    world.code = {}  # the code is not kept: a resumed stage runs with, and records, what there is then
    plan = world.plan(chain(lr=5.0), force=("c",))
    data = json.loads(canonical_json(plan_to_json(plan)))
    assert plan_from_json(data, {"work": KIND}, digest=plan_digest(plan)) == plan


def test_a_plan_whose_kinds_have_changed_is_refused(world: World) -> None:
    data: Any = plan_to_json(world.plan(chain()))
    with pytest.raises(RecipeError, match="stage 'a' would make something else now"):
        plan_from_json(data, {"work": replace(KIND, version=2)})
    shown = plan_from_json(data, {"work": replace(KIND, version=2)}, allow_changed_kinds=True)
    assert [stage.fingerprint for stage in shown.stages] == [stage["fingerprint"] for stage in data["stages"]]
    with pytest.raises(RecipeError, match="of kind 'work', which no longer exists"):
        plan_from_json(data, {})


@pytest.mark.parametrize("data", [{}, {"format": 99}, {"format": 1, "stages": [{}]}, {"format": 1, "stages": [3]}])
def test_data_that_is_not_a_plan_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="plan"):
        plan_from_json(data, {"work": KIND})


def test_a_damaged_plan_is_refused(world: World) -> None:
    plan = world.plan(chain())
    with pytest.raises(RecipeError, match="does not match its digest"):
        plan_from_json({**plan_to_json(plan), "recipe": "chaim"}, {"work": KIND}, digest=plan_digest(plan))
