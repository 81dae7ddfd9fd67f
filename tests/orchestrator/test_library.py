"""The library door runs, plans and opens what the command line does, and writes nothing until it runs something."""

import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.shared.options import builtin_recipes
from orchestrator.errors import CancelledError, PluginError, RecipeError, StageFailedError
from orchestrator.history.events import RunState
from orchestrator.library import Workspace
from orchestrator.planning.plan import PlanOptions
from orchestrator.stage import StageContext, StageKind
from tests.orchestrator.test_cli import KINDS, RECIPE, SayConfig, say

WORDS: dict[str, Any] = {
    "name": "words",
    "stages": {
        "said": {"kind": "say", "config": {"text": "hello"}},
        "loud": {"kind": "shout", "inputs": {"words": "said"}, "config": {"times": 2}},
    },
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """Opened in an empty folder that holds a recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.yaml").write_text(RECIPE)
    with Workspace.open(tracking="none", kinds=KINDS.values()) as opened:
        yield opened


def test_a_recipe_is_planned_run_and_its_outputs_are_opened(workspace: Workspace) -> None:
    assert [stage.action for stage in workspace.plan("words.yaml").stages] == ["run", "run", "run"]
    status = workspace.run("words.yaml", show=False)
    assert status.run.state is RunState.SUCCEEDED
    assert workspace.plan(Path("words.yaml")).to_run == ()
    loud = workspace.artifact("loud")
    assert (loud.path / "words.txt").read_text() == "HELLOHELLO"
    assert loud.manifest.metrics == {"words": 2.0}
    for target in (f"{status.run.run_id}:loud", "last:loud", "words:loud", str(loud.fingerprint)[:12]):
        assert workspace.artifact(target) == loud
    assert workspace.artifact("loud", run="words") == loud


def test_nothing_is_written_before_the_first_run(workspace: Workspace, tmp_path: Path) -> None:
    workspace.plan("words.yaml")
    assert workspace.runs() == []
    with pytest.raises(RecipeError, match="found no run in the database"):
        workspace.artifact("loud")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["words.yaml"]
    workspace.run("words.yaml", show=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".illume", "words.yaml"]


def test_a_workspace_is_looked_for_upwards_and_one_made_meanwhile_is_seen(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks" / "deep").mkdir(parents=True)
    early = Workspace.open(tmp_path / ".illume")
    assert early.runs() == []
    run_id = workspace.run("words.yaml", show=False).run.run_id
    monkeypatch.chdir(tmp_path / "notebooks" / "deep")
    with Workspace.open() as below, early:
        assert [run.run_id for run in below.runs()] == [run.run_id for run in early.runs()] == [run_id]
    assert list((tmp_path / "notebooks" / "deep").iterdir()) == []


def test_running_again_reuses_everything_and_makes_no_run(workspace: Workspace) -> None:
    first = workspace.run("words.yaml", show=False)
    again = workspace.run("words.yaml", show=False)
    assert again.run.run_id == first.run.run_id
    assert [run.run_id for run in workspace.runs()] == [first.run.run_id]
    forced = workspace.run("words.yaml", options=PlanOptions(force=("loud",)), show=False)
    assert forced.run.run_id != first.run.run_id


def test_a_failed_run_is_continued(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "fault").write_text("fail")
    fault = ["stages.loud.config.fault=fault", "stages.loud.retry.wait_s=0.0"]
    with pytest.raises(StageFailedError, match="out of breath"):
        workspace.run("words.yaml", overrides=fault, show=False)
    (tmp_path / "fault").unlink()
    failed = workspace.status()
    assert failed.run.state is RunState.FAILED
    assert workspace.run("words.yaml", overrides=fault, show=False).run.run_id == failed.run.run_id


def test_a_recipe_may_be_a_mapping_which_stays_as_it_is(workspace: Workspace) -> None:
    overrides = ["stages.loud.config.times=3"]
    plan = workspace.plan(WORDS, overrides=overrides)
    assert plan.stage("loud").spec.config.times == 3
    assert WORDS["stages"]["loud"]["config"] == {"times": 2}
    workspace.run(WORDS, overrides=overrides, show=False)
    assert (workspace.artifact("loud").path / "words.txt").read_text() == "HELLOHELLOHELLO"


def test_the_progress_is_shown_if_asked_for(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.run("words.yaml", show=False)
    assert capsys.readouterr().out == ""
    workspace.run("words.yaml", overrides=["stages.loud.config.times=3"])
    assert "loud" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("wods", "found no recipe 'wods'"),
        (Path("absent.yaml"), "absent.yaml: found no such recipe file"),
        ({"name": "words"}, "stages: found none, expected a mapping with at least one stage"),
        (7, "recipe: found a int; expected a file, the name of a built-in recipe, or a mapping"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(workspace: Workspace, recipe: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        workspace.run(recipe, show=False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("lod", "found no stage 'lod'; did you mean 'loud'?"),
        ("words:lod", "found no stage 'lod'; did you mean 'loud'?"),
        ("wrods:loud", "found no run 'wrods'; did you mean 'words'?"),
        ("abcdef012345", "found 0 artifacts, expected one"),
    ],
)
def test_a_mistake_in_a_target_is_named(workspace: Workspace, target: str, message: str) -> None:
    workspace.run("words.yaml", show=False)
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        workspace.artifact(target)


def test_two_kinds_of_one_name_and_a_run_without_a_tokenizer_are_refused(workspace: Workspace) -> None:
    other = StageKind(name="curate", version=1, config=SayConfig, run=say, output="words@1")
    with pytest.raises(PluginError, match="stage kind 'curate': found two of this name"):
        Workspace.open(kinds=[other])
    workspace.run("words.yaml", show=False)
    with pytest.raises(RecipeError, match="no stage makes a 'tokenizer@1'"):
        workspace.tokenizer()


def test_kinds_of_a_plugin_are_used_by_name(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom tests.orchestrator.test_cli import SAY\n"
        "MINE = replace(SAY, name='mine')\n"
    )
    recipe: Any = {"name": "mine", "stages": {"only": {"kind": "mine", "config": {"text": "x"}}}}
    with pytest.raises(RecipeError, match="no such stage kind"):
        workspace.plan(recipe)
    with Workspace.open(tracking="none", plugins=["./mine.py:MINE"]) as opened:
        assert opened.run(recipe, show=False).run.state is RunState.SUCCEEDED


def test_built_in_recipes_are_planned_by_name(workspace: Workspace) -> None:
    assert "quickstart" in builtin_recipes()
    assert "curated" in {stage.id for stage in workspace.plan("quickstart").stages}


def stubborn(_config: SayConfig, context: StageContext) -> Mapping[str, float]:
    """Interrupts its own process once, as the stop button of a notebook does, and waits for the request to stop."""
    signal.raise_signal(signal.SIGINT)
    for _ in range(2000):
        if context.stop_requested():
            raise CancelledError(f"{context.stage_id}: stopped")
        threading.Event().wait(0.01)
    raise AssertionError("the request to stop did not come")


def test_an_interrupt_stops_at_a_commit_point_and_leaves_the_handler_as_it_was(workspace: Workspace) -> None:
    kind = StageKind(name="stubborn", version=1, config=SayConfig, run=stubborn, output="words@1")
    before = signal.getsignal(signal.SIGINT)
    recipe: Any = {"name": "stop", "stages": {"only": {"kind": "stubborn", "config": {"text": "x"}}}}
    with Workspace.open(tracking="none", kinds=[kind]) as opened, pytest.raises(CancelledError):
        opened.run(recipe, show=False)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_works_outside_the_main_thread(workspace: Workspace) -> None:
    states: list[RunState] = []
    thread = threading.Thread(target=lambda: states.append(workspace.run("words.yaml", show=False).run.state))
    thread.start()
    thread.join(60)
    assert states == [RunState.SUCCEEDED]
