import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from orchestrator.errors import NewerFormatError, RecipeError
from orchestrator.identity import canonical_json, fingerprint_of
from orchestrator.planning.code_digest import code_of
from orchestrator.planning.plan_file import plan_digest, plan_from_json, plan_to_json
from tests.orchestrator.planning.test_plan import DATA, KIND, Config, Inner, World, chain


@pytest.fixture
def world() -> World:
    """A world in which the chain was made once."""
    made = World(code={"stages/work.py": "1"})
    made.execute(made.plan(chain()))
    return made


def test_a_plan_survives_its_file(world: World) -> None:
    world.code = dict(code_of(KIND).files)  # not kept: a resumed stage runs with, and records, what there is then
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


@dataclass(frozen=True, kw_only=True)
class GrownInner(Inner):
    momentum: float = 0.9


@dataclass(frozen=True, kw_only=True)
class GrownConfig(Config):
    inner: GrownInner = GrownInner()
    fresh: tuple[int, ...] = (7,)


def test_a_begun_run_continues_after_a_release_with_a_new_setting(world: World) -> None:
    """The plan of the run holds the old settings; the new ones, also of a class inside, have their defaults."""
    recipe = chain(lr=5.0)
    inner = tuple(replace(item, config=replace(item.config, inner=Inner(rate=0.1))) for item in recipe.stages)
    data = json.loads(canonical_json(plan_to_json(world.plan(replace(recipe, stages=inner)))))
    resumed = plan_from_json(data, {"work": replace(KIND, config=GrownConfig)}, digest=fingerprint_of(data))
    assert [stage.fingerprint for stage in resumed.stages] == [stage["fingerprint"] for stage in data["stages"]]
    assert [stage.id for stage in resumed.to_run] == ["a", "b", "c"]
    assert resumed.stages[0].spec.config == GrownConfig(lr=5.0, inner=GrownInner(rate=0.1), folder=DATA)


def test_a_run_begun_when_identities_held_their_defaults_is_refused_with_a_line(world: World) -> None:
    data: Any = json.loads(canonical_json(plan_to_json(world.plan(chain()))))
    for stage in data["stages"]:
        stage["payload"]["config"] = {"lr": 2e-05, "sizes": [1, 2], "inner": {"rate": 0.5}}
        stage["fingerprint"] = fingerprint_of(stage["payload"])
    with pytest.raises(RecipeError, match=r"stage 'a' would make something else now.*make a new plan"):
        plan_from_json(data, {"work": replace(KIND, version=2)})


@pytest.mark.parametrize("data", [{}, {"format": 0}, {"format": 1, "stages": [{}]}, {"format": 1, "stages": [3]}])
def test_data_that_is_not_a_plan_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="plan"):
        plan_from_json(data, {"work": KIND})


def test_a_plan_of_a_newer_format_is_not_called_damaged() -> None:
    with pytest.raises(NewerFormatError, match="plan: found format 99, expected 1; read it with the version of illume"):
        plan_from_json({"format": 99, "stages": 3}, {"work": KIND})


def test_a_damaged_plan_is_refused(world: World) -> None:
    plan = world.plan(chain())
    with pytest.raises(RecipeError, match="does not match its digest"):
        plan_from_json({**plan_to_json(plan), "recipe": "chaim"}, {"work": KIND}, digest=plan_digest(plan))
