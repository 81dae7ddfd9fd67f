"""Which checkpoint a training begins with after takedowns, and that its identity and its reason say so."""

from dataclasses import replace

import pytest

from orchestrator.artifact import ArtifactKey, Manifest
from orchestrator.artifacts.restarts import awaited_restarts, clean_restart, restart_in, with_restart
from orchestrator.artifacts.takedowns import Restart, Takedown, takedown_from_json, takedown_to_json
from orchestrator.planning.plan import Plan, make_plan
from tests.orchestrator.artifacts.test_takedowns import takedown
from tests.orchestrator.planning.test_plan import KIND, World, chain


def restart(fingerprint: str, step: int) -> Restart:
    return Restart(stage_kind="work", fingerprint=fingerprint, step=step, manifest_sha256=f"{step:064d}")


def with_restarts(known: Takedown, *restarts: Restart) -> Takedown:
    return replace(known, restarts=restarts)


def planned(world: World, *takedowns: Takedown, kept: bool = True) -> Plan:
    view = replace(world.view(), takedowns=takedowns, has_restart=lambda _restart: kept)
    return make_plan(chain(), view)


def made(world: World) -> tuple[str, str, str]:
    plan = world.plan(chain())
    world.execute(plan)
    a, b, c = (str(stage.fingerprint) for stage in plan.stages)
    return a, b, c


def test_the_earliest_checkpoint_that_the_takedowns_name_counts_and_each_must_say_something() -> None:
    first, second = with_restarts(takedown("T1"), restart("m", 30)), with_restarts(takedown("T2"), restart("m", 20))
    assert clean_restart([first], "m") == restart("m", 30)
    assert clean_restart([first, second], "m") == restart("m", 20)
    assert clean_restart([second, first], "m") == restart("m", 20)
    assert clean_restart([first, takedown("T3", cleared=("m",))], "m") == restart("m", 30)
    assert clean_restart([first, takedown("T3")], "m") is None  # T3 says nothing about it
    assert clean_restart([], "m") is None


def test_a_training_continues_from_its_clean_checkpoint_and_says_so() -> None:
    world = World()
    a, b, _ = made(world)
    plan = planned(world, with_restarts(takedown("T1", a, models=(b,)), restart(b, 20)))
    again, after = plan.stage("b"), plan.stage("c")
    assert restart_in(again.payload) == restart(b, 20)
    assert str(again.reasons[-1]) == f"continues from the clean checkpoint of step 20 of {b[:12]}"
    assert restart_in(plan.stage("a").payload) is restart_in(after.payload) is None
    scratch = planned(world, takedown("T1", a, models=(b,)))
    assert again.fingerprint != scratch.stage("b").fingerprint
    assert again.payload == with_restart(scratch.stage("b").payload, restart(b, 20))


@pytest.mark.parametrize(("steps", "step", "expected_s"), [(80, 20, 45.0), (20, 20, 0.0), (10, 20, 0.0), (1, 1, 0.0)])
def test_a_training_that_continues_takes_the_time_of_the_steps_that_are_left(
    steps: int, step: int, expected_s: float
) -> None:
    world = World()
    a, b, _ = made(world)
    known = with_restarts(takedown("T1", a, models=(b,)), restart(b, step))
    kind = replace(KIND, units=lambda _config: float(steps))
    recipe = replace(chain(), stages=tuple(replace(spec, kind=kind) for spec in chain().stages))
    view = replace(world.view(), takedowns=(known,), has_restart=lambda _restart: True, estimate_s=lambda *_: 60.0)
    assert [stage.estimate_s for stage in make_plan(recipe, view).stages] == [60.0, expected_s, 60.0]
    without = replace(view, estimate_s=lambda *_: None)
    assert make_plan(recipe, without).stage("b").estimate_s is None


def test_without_the_checkpoint_it_begins_from_scratch_unless_it_was_made_already() -> None:
    world = World()
    a, b, _ = made(world)
    known = with_restarts(takedown("T1", a, models=(b,)), restart(b, 20))
    assert restart_in(planned(world, known, kept=False).stage("b").payload) is None
    plan = planned(world, known)
    world.execute(plan)
    later = planned(world, known, kept=False)  # the checkpoint that it began with has been collected since
    assert [(stage.action, stage.reasons) for stage in later.stages] == [("reuse", ())] * 3
    assert later.stage("b").fingerprint == plan.stage("b").fingerprint


def test_a_takedown_of_something_else_leaves_the_beginning_as_it_is() -> None:
    world = World()
    a, b, c = made(world)
    first = with_restarts(takedown("T1", a, models=(b,)), restart(b, 20))
    plan = planned(world, first)
    world.execute(plan)
    assert planned(world, first, takedown("T2", "elsewhere")).stage("b").fingerprint == plan.stage("b").fingerprint
    assert c not in {stage.fingerprint for stage in plan.stages}


def test_two_takedowns_before_the_next_run_agree_on_an_earlier_checkpoint() -> None:
    world = World()
    a, b, _ = made(world)
    first = with_restarts(takedown("T1", a, models=(b,)), restart(b, 20))
    again = str(planned(world, first).stage("a").fingerprint)
    second = with_restarts(takedown("T2", again, models=(b,)), restart(b, 10))
    assert restart_in(planned(world, first, second).stage("b").payload) == restart(b, 10)
    silent = takedown("T2", again, models=(b,))  # it could not tell which checkpoints are clean
    assert restart_in(planned(world, first, silent).stage("b").payload) is None


def test_checkpoints_are_awaited_until_a_training_has_continued_from_them() -> None:
    world = World()
    a, b, _ = made(world)
    known = with_restarts(takedown("T1", a, models=(b,)), restart(b, 20))

    def manifests() -> list[Manifest]:
        return list(world.artifacts.values())

    assert awaited_restarts([known], manifests()) == {(ArtifactKey("work", b), 20)}
    world.execute(planned(world, known))
    assert awaited_restarts([known], manifests()) == set()
    assert awaited_restarts([takedown("T2")], manifests()) == set()


def test_restarts_are_recorded_and_older_records_have_none() -> None:
    known = with_restarts(takedown("T1", "a"), restart("m", 20))
    data = takedown_to_json(known)
    assert data["format"] == 4
    assert takedown_from_json(data, "here") == known
    assert takedown_to_json(takedown("T1", "a"))["format"] == 1
    payload = with_restart({"kind": "work", "inputs": {}}, restart("m", 20))
    assert restart_in(payload) == restart("m", 20)
    assert restart_in({"kind": "work"}) is restart_in(None) is None
