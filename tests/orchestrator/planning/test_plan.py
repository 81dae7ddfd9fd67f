"""A plan runs exactly what is missing or forced, and names what changed as the reason."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.artifact import JSON, ArtifactKey, FileEntry, Fingerprint, Manifest
from orchestrator.errors import PrecheckError, RecipeError
from orchestrator.planning.code_digest import CodeDigest
from orchestrator.planning.plan import (
    Plan,
    PlannedStage,
    PlanOptions,
    check_needs,
    make_plan,
    run_prechecks,
    stage_rows,
)
from orchestrator.planning.stage_identity import PROVENANCE_CODE, PlanView
from orchestrator.stage import Location, Recipe, Resources, RetryPolicy, Slot, StageKind, StageSpec

DATA = Location("/data")


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Config:
    lr: float = 2e-5
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()
    folder: Location = DATA


def no_run(_config: Any, _context: Any) -> dict[str, float]:
    return {}


KIND = StageKind(
    name="work",
    version=1,
    config=Config,
    run=no_run,
    output="thing@1",
    inputs={"first": Slot(kind="thing@1", many=True, required=False), "second": Slot(kind="thing@1", required=False)},
)


def spec(stage_id: str, *upstream: str, config: Config | None = None, kind: StageKind[Any] = KIND) -> StageSpec:
    return StageSpec(
        id=stage_id,
        kind=kind,
        config=config or Config(folder=Location(f"/{stage_id}")),
        inputs={"first": upstream} if upstream else {},
        resources=Resources(),
        retry=RetryPolicy(),
    )


def chain(*, lr: float = 2e-5) -> Recipe:
    """a -> b -> c with different learning rates."""
    names = {"a": lr, "b": 1.0, "c": 2.0}
    upstream = {"a": (), "b": ("a",), "c": ("b",)}
    stages = tuple(spec(name, *upstream[name], config=Config(lr=value)) for name, value in names.items())
    return Recipe(name="chain", stages=stages, file="chain.yaml")


@dataclass
class World:
    """A store and a history in memory."""

    artifacts: dict[str, Manifest] = field(default_factory=dict)
    last: dict[str, Mapping[str, JSON]] = field(default_factory=dict)  # identities by stage id
    code: dict[str, str] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    shards: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by stage id
    quarantined: dict[str, int] = field(default_factory=dict)  # items by stage id

    def view(self) -> PlanView:
        return PlanView(
            find=lambda key: self.artifacts.get(key.fingerprint),
            previous=lambda _recipe, stage_id, _kind: self.last.get(stage_id),
            sources=lambda stage: self.sources.get(stage.id, {}),
            code=lambda _kind: CodeDigest(files=dict(self.code)),
            estimate_s=lambda _recipe, stage, _fingerprint, _rows: 60.0 if stage.id in self.last else None,
            quarantined=lambda _kind, manifest: sum(
                number for name, number in self.quarantined.items() if self.last[name] == manifest.payload
            ),
        )

    def plan(self, recipe: Recipe, **options: Any) -> Plan:
        return make_plan(recipe, self.view(), PlanOptions(**options))

    def execute(self, plan: Plan) -> list[str]:
        """Make what the plan runs; inputs must exist when a stage starts."""
        made = []
        for stage in plan.to_run:
            inputs: Any = stage.payload["inputs"]
            for fingerprint in [item for slot in inputs.values() for item in slot]:
                assert fingerprint in self.artifacts, f"{stage.id} started without its input"
            self.artifacts[stage.fingerprint] = self.manifest(stage)
            self.last[stage.id] = stage.payload
            made.append(stage.id)
        return made

    def manifest(self, stage: PlannedStage) -> Manifest:
        return Manifest(
            kind="thing@1",
            stage_kind="work",
            fingerprint=stage.fingerprint,
            payload=stage.payload,
            files=(),
            metrics={},
            shards=self.shards.get(stage.id, ()),
            provenance={PROVENANCE_CODE: {"digest": stage.code.digest, "files": dict(stage.code.files)}},
        )

    def delete(self, plan: Plan, *stage_ids: str) -> None:
        for stage_id in stage_ids:
            del self.artifacts[plan.stage(stage_id).fingerprint]


def table(plan: Plan) -> dict[str, tuple[str, str]]:
    return {stage.id: (stage.action, "; ".join(str(reason) for reason in stage.reasons)) for stage in plan.stages}


@pytest.fixture
def world() -> World:
    """A world in which the chain was made once."""
    made = World(code={"stages/work.py": "1"})
    made.execute(made.plan(chain()))
    return made


def test_a_first_plan_runs_everything_because_it_was_never_made() -> None:
    assert table(World().plan(chain())) == {name: ("run", "never made") for name in "abc"}


def test_a_second_plan_reuses_everything(world: World) -> None:
    assert table(world.plan(chain())) == {name: ("reuse", "") for name in "abc"}


def test_a_changed_value_is_named_and_runs_exactly_what_depends_on_it(world: World) -> None:
    stages = list(chain().stages)
    stages[1] = spec("b", "a", config=Config(lr=1.5, inner=Inner(rate=0.25)))
    assert table(world.plan(replace(chain(), stages=tuple(stages)))) == {
        "a": ("reuse", ""),
        "b": ("run", "config.lr: 1.0 -> 1.5; config.inner.rate: 0.5 -> 0.25"),
        "c": ("run", "upstream re-runs: b"),
    }


def test_locations_names_resources_and_retries_change_nothing(world: World) -> None:
    renamed = []
    for stage in chain().stages:
        config = replace(stage.config, folder=Location("/elsewhere"))
        inputs = {slot: tuple(f"new-{name}" for name in ids) for slot, ids in stage.inputs.items()}
        moved = replace(stage, id=f"new-{stage.id}", config=config, inputs=inputs, resources=Resources(workers=8))
        renamed.append(replace(moved, retry=RetryPolicy(attempts=9)))
    plan = world.plan(Recipe(name="another", stages=tuple(renamed)))
    assert [stage.action for stage in plan.stages] == ["reuse"] * 3


def test_a_missing_end_is_made_again(world: World) -> None:
    world.delete(world.plan(chain()), "c")
    assert table(world.plan(chain()))["c"] == ("run", "output missing")


def test_a_missing_artifact_whose_consumers_exist_is_skipped(world: World) -> None:
    world.delete(world.plan(chain()), "a", "b")
    reason = "output missing, but everything made from it exists"
    assert table(world.plan(chain())) == {"a": ("skip", reason), "b": ("skip", reason), "c": ("reuse", "")}


def test_a_missing_artifact_is_made_again_for_a_new_consumer(world: World) -> None:
    recipe = chain()
    world.delete(world.plan(recipe), "a")
    wider = replace(recipe, stages=(*recipe.stages, spec("d", "a", config=Config(lr=9.0))))
    found = {name: action for name, (action, _reason) in table(world.plan(wider)).items()}
    assert found == {"a": "run", "b": "reuse", "c": "reuse", "d": "run"}


def test_force_makes_a_stage_and_what_was_made_from_it_again(world: World) -> None:
    plan = world.plan(chain(), force=("b",))
    assert table(plan) == {"a": ("reuse", ""), "b": ("run", "forced"), "c": ("run", "upstream re-runs: b")}
    assert [stage.redo for stage in plan.stages] == [False, True, True]
    assert plan.stage("b").fingerprint == world.plan(chain()).stage("b").fingerprint


def test_quarantined_items_are_tried_again_with_what_was_made_from_them_if_asked_for(world: World) -> None:
    world.quarantined = {"b": 3}
    assert [stage.action for stage in world.plan(chain()).stages] == ["reuse"] * 3
    plan = world.plan(chain(), retry_quarantined=True)
    assert table(plan) == {
        "a": ("reuse", ""),
        "b": ("run", "3 quarantined items are tried again"),
        "c": ("run", "upstream re-runs: b"),
    }
    assert [stage.redo for stage in plan.stages] == [False, True, True]
    both = world.plan(chain(), retry_quarantined=True, force=("b",))
    assert table(both)["b"] == ("run", "forced; 3 quarantined items are tried again")
    assert table(world.plan(chain(), retry_quarantined=True, only=("c",)))["b"] == ("reuse", "")


def test_a_forced_stage_that_was_never_made_has_nothing_to_retract() -> None:
    plan = World().plan(chain(), force=("a",))
    assert [str(reason) for reason in plan.stage("a").reasons] == ["forced", "never made"]
    assert not any(stage.redo for stage in plan.stages)


def test_force_brings_back_a_skipped_stage_in_between(world: World) -> None:
    world.delete(world.plan(chain()), "b")
    found = {name: action for name, (action, _reason) in table(world.plan(chain(), force=("a",))).items()}
    assert found == {"a": "run", "b": "run", "c": "run"}


def test_a_raised_version_is_the_reason(world: World) -> None:
    stages = chain().stages
    bumped = replace(chain(), stages=(replace(stages[0], kind=replace(KIND, version=2)), *stages[1:]))
    assert table(world.plan(bumped))["a"] == ("run", "version 1 -> 2")


def test_changed_code_is_a_warning_and_no_reason_to_run(world: World) -> None:
    world.code = {"stages/work.py": "2", "models/new.py": "1"}
    reason = "code changed (not in identity): models/new.py, stages/work.py"
    assert table(world.plan(chain()))["b"] == ("reuse", reason)


def test_changed_code_runs_again_under_the_policy_rerun(world: World) -> None:
    world.code = {"stages/work.py": "2"}
    plan = world.plan(chain(), code="rerun")
    assert table(plan)["a"] == ("run", "code changed (not in identity): stages/work.py")
    assert all(stage.redo for stage in plan.stages)
    world.execute(plan)
    assert table(world.plan(chain(), code="rerun")) == {name: ("reuse", "") for name in "abc"}


def test_changed_code_is_an_error_under_the_policy_fail(world: World) -> None:
    world.code = {"stages/work.py": "2"}
    with pytest.raises(RecipeError, match=r"(?s)chain\.yaml: the code of stages.*a: stages/work\.py.*--code rerun"):
        world.plan(chain(), code="fail")


def test_a_forced_stage_whose_code_changed_says_both(world: World) -> None:
    world.code = {"stages/work.py": "2"}
    plan = world.plan(chain(), code="rerun", force=("b",))
    assert table(plan)["b"] == (
        "run",
        "forced; code changed (not in identity): stages/work.py; upstream re-runs: a",
    )
    assert table(world.plan(chain(), force=("b",)))["b"] == ("run", "forced")  # a warning is no reason


def test_an_artifact_without_recorded_code_gives_no_warning(world: World) -> None:
    world.artifacts = {key: replace(manifest, provenance={}) for key, manifest in world.artifacts.items()}
    assert table(world.plan(chain(), code="fail"))["a"] == ("reuse", "")


def test_added_shards_of_an_input_that_exists_are_counted(world: World) -> None:
    world.shards["a"] = ("s1", "s2", "s3")
    world.execute(world.plan(chain(lr=5.0)))
    world.shards["a"] = ("s1", "s3", "s4", "s5")
    world.execute(world.plan(chain(lr=6.0), until=("a",)))
    assert table(world.plan(chain(lr=6.0)))["b"] == ("run", "input first: +2 -1 shards")


def test_shards_that_were_only_added_are_counted_and_an_older_input_that_is_gone_is_not(world: World) -> None:
    world.shards["a"] = ("s1",)
    world.execute(world.plan(chain(lr=5.0)))
    older = world.plan(chain(lr=5.0))
    world.shards["a"] = ("s1", "s2")
    world.execute(world.plan(chain(lr=6.0), until=("a",)))
    assert table(world.plan(chain(lr=6.0)))["b"] == ("run", "input first: +1 -0 shards")
    world.delete(older, "a")
    assert table(world.plan(chain(lr=6.0)))["b"] == ("run", "input first: +1 -1 artifacts")


def test_shards_are_not_counted_where_one_side_has_none(world: World) -> None:
    world.execute(world.plan(chain(lr=5.0)))
    world.shards["a"] = ("s1", "s2")
    world.execute(world.plan(chain(lr=6.0), until=("a",)))
    assert table(world.plan(chain(lr=6.0)))["b"] == ("run", "input first: +1 -1 artifacts")


def test_a_slot_that_was_filled_or_emptied_is_named(world: World) -> None:
    a, b, c = chain().stages
    fuller = replace(c, inputs={**c.inputs, "second": ("a",)})
    assert table(world.plan(replace(chain(), stages=(a, b, fuller))))["c"] == ("run", "input second: +1 -0 artifacts")
    emptier = replace(b, inputs={})
    assert table(world.plan(replace(chain(), stages=(a, emptier, c))))["b"] == ("run", "input first: +0 -1 artifacts")


def test_a_new_input_is_counted_in_artifacts_where_shards_are_unknown(world: World) -> None:
    world.execute(world.plan(chain(lr=7.0), until=("a",)))
    assert table(world.plan(chain(lr=7.0)))["b"] == ("run", "input first: +1 -1 artifacts")


def test_changed_source_files_are_named(world: World) -> None:
    world.sources = {"a": {"x.jsonl": "1", "y.jsonl": "1"}}
    world.execute(world.plan(chain()))
    world.sources = {"a": {"x.jsonl": "2", "z.jsonl": "1"}}
    plan = world.plan(chain())
    assert table(plan)["a"] == ("run", "source files: +z.jsonl, -y.jsonl, x.jsonl differs")
    assert plan.stage("a").payload["sources"] == {"x.jsonl": "2", "z.jsonl": "1"}


def test_until_leaves_the_rest_of_the_recipe_out() -> None:
    assert table(World().plan(chain(), until=("b",))) == {name: ("run", "never made") for name in "ab"}


def test_until_includes_everything_upstream_however_far() -> None:
    longer = replace(chain(), stages=(*chain().stages, spec("d", "c")))
    assert list(table(World().plan(longer, until=("c",)))) == ["a", "b", "c"]


def test_only_runs_one_stage_on_what_exists(world: World) -> None:
    world.delete(world.plan(chain()), "b", "c")
    found = {name: action for name, (action, _reason) in table(world.plan(chain(), only=("b",))).items()}
    assert found == {"a": "reuse", "b": "run"}


def test_only_makes_each_stage_that_it_names_and_again_if_it_is_made_from_a_forced_one(world: World) -> None:
    world.delete(world.plan(chain()), "a")
    found = {name: action for name, (action, _reason) in table(world.plan(chain(), only=("a", "b"))).items()}
    assert found == {"a": "run", "b": "reuse"}
    forced = world.plan(chain(), only=("a", "b"), force=("a",))
    assert [(stage.action, stage.redo) for stage in forced.stages] == [("run", False), ("run", True)]


def test_only_refuses_to_run_without_its_inputs() -> None:
    with pytest.raises(RecipeError, match="--only b: found no output of a, which is needed; add --only a"):
        World().plan(chain(), only=("b",))


@pytest.mark.parametrize("option", ["force", "until", "only"])
def test_an_unknown_stage_in_an_option_is_named(option: str) -> None:
    wide = Recipe(name="wide", stages=(spec("curated"),))
    with pytest.raises(RecipeError, match=f"wide: --{option}: found no stage 'curate'; did you mean 'curated'?"):
        World().plan(wide, **{option: ("curate",)})


def test_a_stage_outside_the_plan_cannot_be_forced() -> None:
    with pytest.raises(RecipeError, match=r"chain\.yaml: --force: found no stage of this plan 'c'"):
        World().plan(chain(), until=("a",), force=("c",))


def test_estimates_are_given_for_what_runs(world: World) -> None:
    plan = world.plan(chain(), force=("c",))
    assert [stage.estimate_s for stage in plan.stages] == [None, None, 60.0]


def test_estimates_are_asked_for_with_the_rows_of_the_inputs_where_they_exist() -> None:
    world, asked = World(), dict[str, int | None]()
    world.execute(world.plan(chain(), until=("a",)))
    files = tuple(FileEntry(path=str(rows), bytes=1, sha256="0" * 64, rows=rows) for rows in (3, None, 4))
    world.artifacts = {key: replace(manifest, files=files) for key, manifest in world.artifacts.items()}

    def estimate_s(_recipe: str, stage: StageSpec, _fingerprint: Fingerprint, rows: int | None) -> float:
        asked[stage.id] = rows
        return 60.0

    make_plan(chain(), replace(world.view(), estimate_s=estimate_s))
    assert asked == {"b": 7, "c": None}
    wide = Recipe(name="wide", stages=(*chain().stages, spec("d", "a", "c", config=Config(lr=9.0))))
    make_plan(wide, replace(world.view(), estimate_s=estimate_s))
    assert asked["d"] is None  # one of two


def test_a_run_does_not_start_without_the_files_that_its_stages_need(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()

    def needs(config: Config) -> dict[str, str]:
        return {"images": str(tmp_path / "there"), "weights": str(tmp_path / "absent"), "captions": ""}

    recipe = Recipe(name="wide", stages=(spec("d", kind=replace(KIND, needs=needs)), spec("e")), file="wide.yaml")
    world = World()
    plan = world.plan(recipe)
    with pytest.raises(PrecheckError) as raised:
        check_needs(plan)
    assert str(raised.value).splitlines() == [
        "wide.yaml: the run cannot start",
        f"stages.d.config.weights: nothing at {str(tmp_path / 'absent')!r}; give the path of the files that the "
        "config names",
        "stages.d.config.captions: empty, but this stage starts from files outside the store; give their path",
    ]
    world.execute(plan)
    check_needs(world.plan(recipe))  # what is reused needs nothing
    with pytest.raises(PrecheckError, match=r"^wide: the run cannot start"):
        check_needs(replace(plan, file=""))


def test_the_history_records_each_stage_with_its_reasons_and_its_inputs(world: World) -> None:
    plan = world.plan(chain(), force=("b",))
    rows = {row.stage_id: (row.action, row.reasons, row.upstream, row.fingerprint) for row in stage_rows(plan)}
    assert rows == {
        "a": ("reuse", (), (), plan.stage("a").fingerprint),
        "b": ("run", ("forced",), ("a",), plan.stage("b").fingerprint),
        "c": ("run", ("upstream re-runs: b",), ("b",), plan.stage("c").fingerprint),
    }
    assert plan.stage("c").key == ArtifactKey("work", plan.stage("c").fingerprint)
    with pytest.raises(RecipeError, match="chain: found no stage 'd'"):
        plan.stage("d")


def test_prechecks_see_the_configurations_of_inputs_by_slot(world: World) -> None:
    seen: list[Any] = []

    def check(config: Config, inputs: Mapping[str, Any]) -> None:
        seen.append(inputs)
        raise PrecheckError("refused")

    checked = spec("d", "b", config=Config(lr=9.0), kind=replace(KIND, precheck=check))
    checked = replace(checked, inputs={**checked.inputs, "second": ("a",)})
    with pytest.raises(PrecheckError, match="refused"):
        run_prechecks(world.plan(replace(chain(), stages=(*chain().stages, checked))))
    assert seen == [{"first": (Config(lr=1.0),), "second": Config(lr=2e-5)}]


def test_prechecks_of_execution_see_it_with_the_resources_and_name_the_stage(world: World) -> None:
    def check(config: Config, execution: object, resources: Resources) -> None:
        if resources.workers == 3:
            raise PrecheckError(f"{config.lr} {type(execution).__name__} on 3 workers")

    kind = replace(KIND, precheck_execution=check)
    two, three = (
        replace(spec(f"on_{workers}", config=Config(lr=7.0 + workers), kind=kind), resources=Resources(workers=workers))
        for workers in (2, 3)
    )
    with pytest.raises(PrecheckError, match=r"^stages\.on_3: 10\.0 Execution on 3 workers$"):
        run_prechecks(world.plan(Recipe(name="both", stages=(two, three))))


def random_recipe(rng: random.Random) -> Recipe:
    names = [f"s{number}" for number in range(rng.randrange(1, 8))]
    stages = []
    for number, name in enumerate(names):
        upstream = rng.sample(names[:number], rng.randrange(min(number, 3) + 1))
        stages.append(spec(name, *upstream, config=Config(lr=float(number))))
    return Recipe(name="random", stages=tuple(stages))


@given(st.randoms(use_true_random=False))
def test_reuse_means_that_nothing_is_computed(rng: random.Random) -> None:
    """Whatever was deleted and whatever is forced: a plan can run, makes every end, and leaves nothing to run."""
    recipe, world = random_recipe(rng), World()
    first = world.plan(recipe)
    world.execute(first)
    world.delete(first, *(stage.id for stage in first.stages if rng.random() < 0.4))
    force = tuple(stage.id for stage in recipe.stages if rng.random() < 0.2)
    plan = world.plan(recipe, force=force)
    kept = {stage.fingerprint for stage in plan.stages if stage.action == "reuse"}
    assert kept <= world.artifacts.keys()
    made = world.execute(plan)
    assert set(force) <= set(made)
    ends = {stage.id for stage in recipe.stages} - {
        up for stage in recipe.stages for up in stage.inputs.get("first", ())
    }
    assert all(Fingerprint(plan.stage(end).fingerprint) in world.artifacts for end in ends)
    assert world.plan(recipe).to_run == ()
