"""Stages that a recipe need not name: added for stages on GPUs, shared by those that need the same."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.artifact import Manifest
from orchestrator.planning.plan import PlannedStage, PlanOptions, make_plan
from orchestrator.planning.stage_identity import PlanView
from orchestrator.recipe.loading import decode_recipe
from orchestrator.stage import Execution, Preparation, Recipe, Slot, StageKind


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    rows: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    rows: int


@dataclass(frozen=True, kw_only=True)
class Guards(Execution):
    strict: bool = False


def no_run(_config: Any, _context: Any) -> dict[str, float]:
    return {}


DATA = StageKind(name="data", version=1, config=IndexConfig, run=no_run, output="data@1")
INDEX = StageKind(
    name="index",
    version=1,
    config=IndexConfig,
    execution=Guards,
    run=no_run,
    output="index@1",
    inputs={"data": Slot(kind="data@1")},
)
TRAIN = StageKind(
    name="train",
    version=1,
    config=TrainConfig,
    execution=Guards,
    run=no_run,
    output="model@1",
    inputs={"data": Slot(kind="data@1"), "index": Slot(kind="index@1", required=False, decides=False)},
    preparations={
        "index": Preparation(
            kind=INDEX,
            config=lambda config: IndexConfig(rows=config.rows),
            inputs=("data",),
            execution=lambda execution: execution,
        )
    },
)
KINDS = {kind.name: kind for kind in (DATA, INDEX, TRAIN)}


def recipe(**stages: dict[str, Any]) -> Recipe:
    data: dict[str, Any] = {"data": {"kind": "data", "config": {"rows": 1}}}
    return decode_recipe({"name": "prepared", "stages": {**data, **stages}}, KINDS)


def training(rows: int = 1, *, gpus: float = 1, **more: Any) -> dict[str, Any]:
    resources = {"workers": 16, "cpus": 8, "gpus": gpus}
    return {"kind": "train", "inputs": {"data": "data"}, "config": {"rows": rows}, "resources": resources, **more}


def test_a_stage_on_gpus_is_prepared_by_workers_without() -> None:
    found = recipe(first=training(execution={"strict": True}))
    assert [stage.id for stage in found.stages] == ["data", "first_index", "first"]
    index, first = found.stages[1:]
    assert (index.kind, index.config, index.inputs) == (INDEX, IndexConfig(rows=1), {"data": ("data",)})
    assert (index.resources.workers, index.resources.cpus, index.resources.gpus) == (64, 1, 0)
    assert index.execution == Guards(strict=True)
    assert first.inputs["index"] == ("first_index",)


def test_a_stage_on_cpus_is_not() -> None:
    assert [stage.id for stage in recipe(first=training(gpus=0)).stages] == ["data", "first"]


def test_stages_that_need_the_same_preparation_share_it() -> None:
    found = recipe(first=training(1), second=training(1), third=training(2))
    assert [stage.id for stage in found.stages] == ["data", "first_index", "first", "second", "third_index", "third"]
    assert found.stages[3].inputs["index"] == ("first_index",)


def test_a_stage_that_the_recipe_names_is_left_as_it_is() -> None:
    named = {"kind": "index", "inputs": {"data": "data"}, "config": {"rows": 1}}
    found = recipe(own=named, first=training(inputs={"data": "data", "index": "own"}))
    assert [stage.id for stage in found.stages] == ["data", "own", "first"]


def test_the_name_of_another_stage_is_not_taken() -> None:
    found = recipe(first_index={"kind": "data", "config": {"rows": 3}}, first=training())
    assert [stage.id for stage in found.stages] == ["data", "first_index", "first_index_", "first"]


def manifest_of(stage: PlannedStage) -> Manifest:
    kind = stage.spec.kind
    return Manifest(
        kind=kind.output,
        stage_kind=kind.name,
        fingerprint=stage.fingerprint,
        payload=stage.payload,
        files=(),
        metrics={},
    )


def actions(made: Recipe, *, existing: Collection[str] = (), force: tuple[str, ...] = ()) -> dict[str, str]:
    """What a plan does with each stage if the artifacts of some exist."""
    first = make_plan(made, PlanView(find=lambda _key: None))
    found = {stage.key: manifest_of(stage) for stage in first.stages if stage.id in existing}
    return {
        stage.id: stage.action for stage in make_plan(made, PlanView(find=found.get), PlanOptions(force=force)).stages
    }


def test_the_identity_of_a_training_is_that_of_one_without() -> None:
    plain = replace(TRAIN, inputs={"data": Slot(kind="data@1")}, preparations={})
    on_cpus, on_gpus = recipe(first=training(gpus=0)), recipe(first=training())
    stages = (on_cpus.stages[0], replace(on_cpus.stages[1], kind=plain))
    made = [Recipe(name="before", stages=stages), on_cpus, on_gpus]
    plans = [make_plan(found, PlanView(find=lambda _key: None)) for found in made]
    assert len({plan.stage("first").fingerprint for plan in plans}) == 1


def test_a_preparation_is_made_for_a_training_that_runs_and_never_for_one_that_exists() -> None:
    made = recipe(first=training())
    assert actions(made) == {"data": "run", "first_index": "run", "first": "run"}
    assert actions(made, existing=["data", "first"]) == {"data": "reuse", "first_index": "skip", "first": "reuse"}
    assert actions(made, existing=["data", "first_index"])["first_index"] == "reuse"


def test_a_preparation_that_is_made_again_changes_nothing_that_read_it() -> None:
    made, existing = recipe(first=training()), ["data", "first_index", "first"]
    assert actions(made, existing=existing, force=("first_index",)) == {
        "data": "reuse",
        "first_index": "run",
        "first": "reuse",
    }
    assert actions(made, existing=existing, force=("first",))["first_index"] == "reuse"
