"""After a takedown no plan uses a tainted artifact, clean artifacts are kept, and everything else is unchanged."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.artifact import JSON, ArtifactKey, Fingerprint, Manifest
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.attempt_guard import AttemptGuard
from orchestrator.artifacts.takedowns import (
    TAKEDOWNS,
    Restart,
    TaintedArtifact,
    Takedown,
    all_marks,
    find_takedown,
    newest_takedown_s,
    put_takedown,
    read_takedowns,
    takedown_from_json,
    takedown_to_json,
    taken_down_text,
    unknown_takedowns,
)
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import CorruptArtifactError, NewerFormatError, RecipeError, TakenDownError
from orchestrator.identity import fingerprint_of
from orchestrator.planning.plan import Plan, PlanOptions, make_plan, tainted_stages
from orchestrator.planning.stage_identity import TaintIndex
from orchestrator.stage import Recipe
from orchestrator.store.store import record_bytes
from orchestrator.workspace import Workspace
from tests.orchestrator import test_cli
from tests.orchestrator.conftest import MemoryStore
from tests.orchestrator.planning.test_plan import Config, World, chain, spec
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume


def tainted(fingerprint: str, *, is_kept: bool = False) -> TaintedArtifact:
    return TaintedArtifact(
        stage_kind="work",
        fingerprint=fingerprint,
        kind="thing@1",
        why="holds it in 1 of 2 shards",
        is_kept=is_kept,
        manifest_sha256="m" * 64,
        bytes=7,
        run_id="run",
        stage_id="a",
        attempt_id="run-a-1-1",
    )


def takedown(name: str, *fingerprints: str, cleared: tuple[str, ...] = (), models: tuple[str, ...] = ()) -> Takedown:
    return Takedown(
        id=name,
        note="",
        created="2026-01-01T00:00:00+00:00",
        content={"digests": frozenset({name * 2})},
        tainted=(*map(tainted, fingerprints), *(tainted(model, is_kept=True) for model in models)),
        cleared=frozenset(cleared),
        shards=(ArtifactKey("work", "5" * 64),),
    )


def planned(world: World, recipe: Recipe, *takedowns: Takedown, **options: Any) -> Plan:
    return make_plan(recipe, replace(world.view(), takedowns=takedowns), PlanOptions(**options))


def actions(plan: Plan) -> dict[str, str]:
    return {stage.id: stage.action for stage in plan.stages}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def made(world: World) -> Plan:
    """The plan of the chain a -> b -> c, whose artifacts all exist."""
    plan = world.plan(chain())
    world.execute(plan)
    return plan


def fingerprints(plan: Plan) -> list[Fingerprint]:
    return [stage.fingerprint for stage in plan.stages]


def test_a_tainted_artifact_is_made_again_under_another_identity_with_the_reason(world: World, made: Plan) -> None:
    a, b, c = fingerprints(made)
    plan = planned(world, chain(), takedown("T1", a, b, c))
    assert actions(plan) == {"a": "run", "b": "run", "c": "run"}
    assert plan.stage("a").payload["takedowns"] == ["T1"]
    assert all("takedowns" not in plan.stage(name).payload for name in "bc")  # their inputs tell
    assert [str(reason) for reason in plan.stage("a").reasons] == ["tainted by takedown T1"]
    assert [str(reason) for reason in plan.stage("b").reasons] == ["tainted by takedown T1", "upstream re-runs: a"]
    assert not set(fingerprints(plan)) & {a, b, c}
    world.execute(plan)
    assert set(actions(planned(world, chain(), takedown("T1", a, b, c))).values()) == {"reuse"}


def test_a_cleared_artifact_keeps_its_identity_though_its_input_has_another(world: World, made: Plan) -> None:
    a, b, c = fingerprints(made)
    known = takedown("T1", a, cleared=(b,))
    plan = planned(world, chain(), known)
    assert actions(plan) == {"a": "skip", "b": "reuse", "c": "reuse"}  # nobody needs a any more
    assert fingerprints(plan)[1:] == [b, c]


def test_an_artifact_made_from_a_tainted_one_is_tainted_however_late_it_is_committed(world: World, made: Plan) -> None:
    """A driver that started before the takedown may still commit."""
    a, b, c = fingerprints(made)
    known = takedown("T1", a)  # drawn up when neither b nor c was made
    plan = planned(world, chain(), known)
    assert actions(plan) == {"a": "run", "b": "run", "c": "run"}
    assert tainted_stages(made, [known]) == dict.fromkeys("abc", ("T1",))
    assert not {b, c} & set(fingerprints(plan))


def test_a_second_takedown_adds_to_the_first(world: World, made: Plan) -> None:
    first = takedown("T1", *fingerprints(made))
    once = planned(world, chain(), first)
    world.execute(once)
    a, b, c = fingerprints(once)
    second = takedown("T2", a, c, cleared=(b,))
    twice = planned(world, chain(), first, second)
    assert actions(twice) == {"a": "skip", "b": "reuse", "c": "run"}
    assert twice.stage("a").payload["takedowns"] == ["T1", "T2"]
    assert twice.stage("c").payload["takedowns"] == ["T2"]  # its input is the same as before
    assert fingerprints(twice)[1] == b


def test_a_forced_stage_is_made_from_the_current_inputs(world: World, made: Plan) -> None:
    a, b, _ = fingerprints(made)
    plan = planned(world, chain(), takedown("T1", a, cleared=(b,)), force=("b",))
    assert actions(plan) == {"a": "run", "b": "run", "c": "run"}
    inputs: Any = plan.stage("b").payload["inputs"]
    assert inputs["first"] == [plan.stage("a").fingerprint]
    inputs = plan.stage("c").payload["inputs"]
    assert inputs["first"] == [plan.stage("b").fingerprint]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("warn", {"a": "skip", "b": "reuse", "c": "reuse"}),
        ("rerun", {"a": "run", "b": "run", "c": "run"}),
    ],
)
def test_a_cleared_artifact_whose_code_changed_is_kept_unless_the_policy_says_rerun(
    policy: str, expected: dict[str, str]
) -> None:
    world = World(code={"stages/work.py": "1"})
    world.execute(made := world.plan(chain()))
    a, b, c = fingerprints(made)
    world.code = {"stages/work.py": "2"}
    known = takedown("T1", a, cleared=(b, c))
    plan = planned(world, chain(), known, code=policy)
    assert actions(plan) == expected
    assert (fingerprints(plan)[1:] == [b, c]) == (policy == "warn")  # a rerun starts from the input of today
    with pytest.raises(RecipeError, match=r"b: stages/work\.py"):
        planned(world, chain(), known, code="fail")


def test_tainted_models_can_be_accepted(world: World, made: Plan) -> None:
    a, b, c = fingerprints(made)
    known = takedown("T1", models=(b, c))
    assert actions(planned(world, chain(), known)) == {"a": "reuse", "b": "run", "c": "run"}
    assert set(actions(planned(world, chain(), known, accept_taint=True)).values()) == {"reuse"}
    with_data = takedown("T1", a, models=(b, c))
    assert actions(planned(world, chain(), with_data, accept_taint=True)) == {"a": "skip", "b": "reuse", "c": "reuse"}


@given(st.data())
@settings(deadline=None)
def test_no_plan_uses_tainted_artifacts_and_running_it_leaves_nothing_to_run(data: st.DataObject) -> None:
    """For any recipe, after any sequence of takedowns of existing artifacts."""
    names = "abcdef"[: data.draw(st.integers(2, 6))]
    stages = []
    for number, name in enumerate(names):
        upstream = data.draw(st.lists(st.sampled_from(names[:number]), unique=True)) if number else []
        stages.append(spec(name, *upstream, config=Config(lr=float(number))))
    recipe, world, takedowns = Recipe(name="any", stages=tuple(stages)), World(), list[Takedown]()
    world.execute(world.plan(recipe))
    for number in range(data.draw(st.integers(1, 3))):
        known = sorted(world.artifacts)
        chosen = data.draw(st.lists(st.sampled_from(known), unique=True))
        cleared = data.draw(st.lists(st.sampled_from(known), unique=True))
        takedowns.append(takedown(f"T{number}", *chosen, cleared=tuple(set(cleared) - set(chosen))))
        plan = planned(world, recipe, *takedowns)
        assert tainted_stages(plan, takedowns) == {}
        for stage in plan.to_run:
            inputs: Any = stage.payload["inputs"]
            upstream_now = [plan.stage(name).fingerprint for names in stage.spec.inputs.values() for name in names]
            assert [parent for slot in inputs.values() for parent in slot] == upstream_now
        world.execute(plan)
        assert not planned(world, recipe, *takedowns).to_run


def test_records_come_back_as_they_were_put_oldest_first(memory_store: MemoryStore) -> None:
    put = [takedown("T2", "a" * 64, cleared=("b" * 64,), models=("c" * 64,)), takedown("T1")]
    for record in put:
        put_takedown(memory_store, record)
    assert read_takedowns(memory_store) == tuple(put)
    assert find_takedown(memory_store, "T1") == put[1]
    assert all_marks(put) == {"digests": frozenset({"T2T2", "T1T1"})}
    with pytest.raises(RecipeError, match="took effect already"):
        put_takedown(memory_store, put[0])
    with pytest.raises(RecipeError, match="known: T2, T1"):
        find_takedown(memory_store, "T3")


def test_a_takedown_comes_after_all_others_though_a_number_is_missing(memory_store: MemoryStore) -> None:
    for name in ("T1", "T2", "T3"):
        put_takedown(memory_store, takedown(name))
    memory_store.delete(f"{TAKEDOWNS}/000002.json")  # as in a copy of a store that was cut short
    put_takedown(memory_store, takedown("T4"))
    assert [found.id for found in read_takedowns(memory_store)] == ["T1", "T3", "T4"]


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({}, 1),
        ({"examined": frozenset({"b" * 64})}, 2),
        ({"examined": frozenset()}, 2),
        ({"by": "alice@host7"}, 3),
        ({"due": "2026-06-01"}, 3),
        ({"restarts": (Restart(stage_kind="train", fingerprint="c" * 64, step=7, manifest_sha256="m" * 64),)}, 4),
    ],
)
def test_a_record_has_the_oldest_format_that_holds_all_of_it(changes: dict[str, Any], number: int) -> None:
    """So that programs of before read what they can understand."""
    known = replace(takedown("T1", "a" * 64), **changes)
    record = takedown_to_json(known)
    assert record["format"] == number
    assert takedown_from_json(record, "here") == known


def test_what_a_takedown_did_with_an_artifact_is_told_of_the_newest_one() -> None:
    first = replace(takedown("T1", DATA, models=(MODEL,)), by="alice@host7")
    told = taken_down_text([first, takedown("T2", DATA)], DATA)
    assert told == "taken down by T2 on 2026-01-01T00:00:00Z: holds it in 1 of 2 shards"
    kept = taken_down_text([first], MODEL)
    assert kept.endswith("Z (alice@host7); the model is kept and marked: holds it in 1 of 2 shards")
    assert taken_down_text([first], "another") == ""


def test_the_time_of_the_newest_takedown_is_that_of_its_plan(memory_store: MemoryStore) -> None:
    assert newest_takedown_s(memory_store) == 0.0
    for name, day in (("T1", 3), ("T2", 2)):
        put_takedown(memory_store, replace(takedown(name), created=f"1970-01-0{day}T00:00:00+00:00"))
    assert newest_takedown_s(memory_store) == 2 * 86400.0


@pytest.mark.parametrize(
    ("recorded", "examined", "unknown"),
    [
        ([], None, ["T1"]),
        (["T1"], None, []),
        (None, frozenset({"x"}), ["T1"]),
        (None, None, []),  # neither says what is needed
    ],
)
def test_a_takedown_is_unknown_to_what_was_made_without_it(
    recorded: list[str] | None, examined: frozenset[str] | None, unknown: list[str]
) -> None:
    provenance: dict[str, JSON] = {} if recorded is None else {"takedowns": [*recorded]}
    manifest = SimpleNamespace(provenance=provenance, payload={}, fingerprint="made")
    listed: Any = [replace(takedown("T1"), examined=examined)]
    assert unknown_takedowns(cast(Manifest, manifest), listed) == unknown


@pytest.mark.parametrize("broken", [{"format": 0}, {"format": 1, "id": "T"}, {"format": 1, "content": 3}])
def test_a_record_that_cannot_be_read_stops_everything(memory_store: MemoryStore, broken: dict[str, Any]) -> None:
    """Ignoring it would ingest what was taken down."""
    memory_store.put_new(f"{TAKEDOWNS}/000001.json", record_bytes(broken))
    with pytest.raises(CorruptArtifactError, match=r"000001\.json"):
        read_takedowns(memory_store)
    with pytest.raises(CorruptArtifactError):
        takedown_from_json({**takedown_to_json(takedown("T")), "tainted": [{}]}, "here")


def test_a_record_of_a_newer_format_stops_everything_and_names_the_way_out(memory_store: MemoryStore) -> None:
    memory_store.put_new(f"{TAKEDOWNS}/000001.json", record_bytes({"format": 5, "id": 3}))
    with pytest.raises(NewerFormatError, match=r"000001\.json: found format 5, expected 4; read it with the vers"):
        read_takedowns(memory_store)


def test_a_key_that_this_version_does_not_know_is_refused(memory_store: MemoryStore) -> None:
    with pytest.raises(CorruptArtifactError, match="here: notes: unknown key; did you mean 'note'"):
        takedown_from_json({**takedown_to_json(takedown("T")), "notes": []}, "here")


def take_down(folder: Path, name: str, *stages: dict[str, Any]) -> None:
    """Apply a takedown of the artifacts of some planned stages."""
    found = tuple(
        replace(tainted(stage["fingerprint"]), stage_kind=stage["kind"], stage_id=stage["id"]) for stage in stages
    )
    with Workspace.open(root=folder / ".illume", tracking_url="none") as workspace:
        workspace.take_down(replace(takedown(name), tainted=found, shards=()))


def stages_of(illume: Illume, *arguments: str) -> dict[str, dict[str, Any]]:
    return {stage["id"]: stage for stage in illume("plan", "words.yaml", "--json", *arguments).data["stages"]}


def test_an_interrupted_run_is_not_continued_with_what_was_taken_down(illume: Illume, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.write_text("interrupt")
    cut_off = ("--set", f"stages.pair.config.fault={trouble}")
    assert illume("run", "words.yaml", *cut_off).code != 0
    before = stages_of(illume, *cut_off)
    assert (before["said"]["action"], before["pair"]["action"]) == ("reuse", "run")
    take_down(tmp_path, "T1", before["said"], before["loud"])
    trouble.unlink()
    answer = illume("resume")
    assert answer.code == 2
    assert "stage 'said' and 2 more stages would use content that was taken down (T1); `illume run`" in answer.err
    after = stages_of(illume, *cut_off)
    assert after["said"]["payload"]["takedowns"] == ["T1"]
    assert illume("run", "words.yaml", *cut_off).code == 0
    assert {stage["action"] for stage in stages_of(illume, *cut_off).values()} == {"reuse"}
    assert "T1" in illume("takedown", "list").out


def test_a_takedown_retracts_pinned_artifacts_and_deletes_young_ones(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    assert illume("pin", f"{newest(illume)['run_id']}:loud").code == 0
    loud = stages_of(illume)["loud"]
    take_down(tmp_path, "T1", loud)
    assert illume("pin").out == ""
    (garbage,) = illume("gc", "--json").data["garbage"]
    assert (garbage["reason"], loud["fingerprint"] in garbage["key"]) == ("retracted", True)
    assert illume("gc", "--delete", "--json").data["collected"]["items"] == 1
    assert illume("gc", "--json").data["garbage"] == []
    assert stages_of(illume)["loud"]["action"] == "run"


def test_nothing_is_retracted_while_a_run_is_active(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    stage = stages_of(illume)["loud"]
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as workspace:
        workspace.runs.create_run("busy", recipe_name="words", plan_digest="p" * 64, stages=[])
        assert workspace.leases.acquire("run:busy") is not None
        with pytest.raises(RecipeError, match="illume cancel busy"):
            take_down(tmp_path, "T1", stage)
    assert set(test_cli.actions(illume).values()) == {"reuse"}


# What was made without knowing a takedown, e.g. by an attempt that was cut off.

CONTENT = {"digests": frozenset({"d"})}
SOURCES: dict[str, Any] = {"kind": "ingest", "inputs": {}, "sources": {"list": "s"}}


def put_applied(store: Any, name: str, **fields: Any) -> Takedown:
    made = Takedown(id=name, note="", created="2026-01-01T00:00:00Z", content=CONTENT, **fields)
    put_takedown(store, made)
    return made


def commit(artifacts: ArtifactStore, payload: dict[str, Any], attempt: str, *known: str) -> Manifest:
    folder = artifacts.new_attempt(ArtifactKey(payload["kind"], fingerprint_of(payload)), attempt)
    (folder.data / "data").write_text(attempt)
    draft = ManifestDraft(kind="thing@1", payload=payload, metrics={}, known_takedowns=known)
    return artifacts.commit(folder, draft, epoch=1).manifest


def test_what_may_hold_removed_content_is_not_committed_after_a_takedown(memory_store: Any, tmp_path: Path) -> None:
    artifacts = ArtifactStore(memory_store, tmp_path)
    parent, clean = "a" * 64, "b" * 64
    put_applied(memory_store, "T1", tainted=(tainted(parent),), examined=frozenset({clean}))
    with pytest.raises(TakenDownError, match="takedown 'T1' took effect while this was made"):
        commit(artifacts, SOURCES, "one")
    with pytest.raises(TakenDownError):
        commit(artifacts, {"kind": "train", "inputs": {"data": [parent]}}, "two")
    assert commit(artifacts, {"kind": "train", "inputs": {"data": [clean]}}, "three").provenance["takedowns"] == []
    assert commit(artifacts, SOURCES, "four", "T1").provenance["takedowns"] == ["T1"]


def test_a_guard_stops_what_a_new_takedown_concerns(memory_store: Any) -> None:
    attempt = AttemptId.of("run", "a", epoch=1, number=1)
    key = ArtifactKey("ingest", fingerprint_of(SOURCES))
    guard = AttemptGuard(store=memory_store, key=key, attempt=attempt, payload=SOURCES)
    others = AttemptGuard(store=memory_store, key=key, attempt=attempt, payload={"inputs": {"data": ["b" * 64]}})
    guard.check()
    put_applied(memory_store, "T1", examined=frozenset())
    with pytest.raises(TakenDownError):
        guard.check()
    others.check()
    replace(guard, known_takedowns=("T1",)).check()


@pytest.mark.parametrize(
    ("provenance", "examined", "unknown"),
    [
        ({"takedowns": []}, frozenset(), ["T1"]),
        ({"takedowns": ["T1"]}, frozenset(), []),
        ({"takedowns": []}, frozenset({fingerprint_of(SOURCES)}), []),  # searched, and clean
        ({}, frozenset(), ["T1"]),
        ({}, None, []),  # both of older versions
    ],
)
def test_a_plan_uses_nothing_that_was_made_without_a_takedown_that_concerns_it(
    memory_store: Any, tmp_path: Path, provenance: dict[str, Any], examined: frozenset[str] | None, unknown: list[str]
) -> None:
    known = Takedown(id="T1", note="", created="", content=CONTENT, examined=examined)
    manifest = replace(commit(ArtifactStore(memory_store, tmp_path), SOURCES, "one"), provenance=provenance)
    index = TaintIndex([known], find=lambda key: manifest if key == manifest.key else None)
    assert list(index.takedowns_of(SOURCES)) == unknown
    made_from_it = {"kind": "train", "inputs": {"data": [fingerprint_of(SOURCES)]}}
    assert list(index.takedowns_of(made_from_it)) == unknown
    with_it = {**SOURCES, "takedowns": ["T1"]}
    assert list(index.takedowns_of(with_it)) == []  # the next identity


DATA, MODEL, SHARD = "d" * 64, "e" * 64, ArtifactKey("work", "5" * 64)
LISTED = Takedown(
    id="T1",
    note="",
    created="2026-01-01T00:00:00Z",
    content={},
    tainted=(tainted(DATA), tainted(MODEL, is_kept=True)),
    cleared=frozenset({"cleared"}),
    examined=frozenset({"searched"}),
    shards=(SHARD,),
)


@pytest.mark.parametrize(
    ("fingerprint", "inputs", "is_tainted", "is_tainted_but_for_models"),
    [
        (DATA, [], True, True),
        (MODEL, [DATA], True, False),  # listed as a model, which may be accepted
        ("made from data", ["sound", DATA], True, True),
        ("made from a model", [MODEL], True, False),
        ("made from both", [MODEL, DATA], True, True),
        ("cleared", [DATA], False, False),
        ("sound", ["other"], False, False),
    ],
)
def test_what_is_tainted_follows_from_what_is_listed_and_from_inputs(
    fingerprint: str, inputs: list[str], is_tainted: bool, is_tainted_but_for_models: bool
) -> None:
    assert LISTED.is_tainted(fingerprint, inputs) == is_tainted
    assert LISTED.is_tainted(fingerprint, inputs, include_models=False) == is_tainted_but_for_models
    assert LISTED.is_tainted(fingerprint, inputs, has_tainted_input=True) == (fingerprint != "cleared")
    assert LISTED.removes(fingerprint) == (fingerprint == DATA)
    payload: dict[str, JSON] = {"inputs": {"data": [*inputs]}}
    assert LISTED.concerns(payload, fingerprint) == is_tainted


def test_what_was_searched_or_cleared_is_clean_and_the_rest_is_not_known() -> None:
    assert [LISTED.shows_clean(name) for name in ("searched", "cleared", "unknown")] == [True, True, False]
    assert not replace(LISTED, examined=None).shows_clean("searched")  # a record of an older version
    of_another, of_it = (
        Restart(stage_kind="train", fingerprint=name, step=7, manifest_sha256="m" * 64) for name in ("another", MODEL)
    )
    assert replace(LISTED, restarts=(of_another, of_it)).restart_of(MODEL) == of_it
    assert LISTED.restart_of(MODEL) is None
    assert [LISTED.holds_shard(fingerprint) for fingerprint in (SHARD.fingerprint, DATA)] == [True, False]


@pytest.mark.parametrize(
    ("payload", "fingerprint", "is_concerned"),
    [
        ({}, "unknown", True),  # read from sources that nobody searched
        ({"inputs": {"data": ["sound"]}}, "unknown", False),
        ({"inputs": {"data": ["sound"]}, "sources": ["s"]}, "unknown", True),
        ({"sources": ["s"]}, "searched", False),
        ({"inputs": {"data": [DATA]}}, "searched", True),
    ],
)
def test_what_was_read_from_sources_that_were_not_searched_is_concerned(
    payload: dict[str, JSON], fingerprint: str, is_concerned: bool
) -> None:
    removing = replace(LISTED, content={"image": frozenset({"x"})})
    assert removing.concerns(payload, fingerprint) == is_concerned
    if DATA not in str(payload):
        assert not LISTED.concerns(payload, fingerprint)  # it removes no content
