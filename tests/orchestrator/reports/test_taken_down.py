"""After a takedown every command says by which one, when and who; none advises to continue the run."""

import re
from pathlib import Path

import pytest

from orchestrator.actor import ACTOR_VARIABLE
from tests.orchestrator import test_cli
from tests.orchestrator.artifacts.test_takedowns import stages_of, take_down
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume


@pytest.fixture
def taken_down(illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The identity of an artifact in the middle of the newest run, which was taken down."""
    monkeypatch.setenv(ACTOR_VARIABLE, "alice")
    illume("run", "words.yaml", "--set", "stages.said.config.text=before")
    illume("run", "words.yaml")
    stages = stages_of(illume)
    take_down(tmp_path, "T1", stages["loud"])
    return str(stages["loud"]["fingerprint"])


@pytest.mark.parametrize("is_deleted", [False, True])
@pytest.mark.parametrize(
    "command",
    ["show last", "show last:loud", "path last:loud", "status last", "lineage last:pair", "lineage last:loud",
     "lineage {digits}", "audit last:loud --no-page", "audit {digits} --no-page", "diff {first} last --no-data"],
)  # fmt: skip
def test_every_command_says_so_and_none_says_resume(
    illume: Illume, taken_down: str, command: str, is_deleted: bool
) -> None:
    if is_deleted:
        illume("gc", "--delete")
    first = illume("status", "--json").data["runs"][-1]["run_id"]
    answer = illume(*command.format(digits=taken_down[:12], first=first).split())
    text = answer.out + answer.err
    assert "taken down by T1 on 20" in text, text
    assert re.search(r"\dZ \(alice\)", text)
    assert "resume" not in text


def test_the_states_of_a_run_name_what_was_taken_down(illume: Illume, taken_down: str) -> None:
    states = {stage["stage_id"]: stage["state"] for stage in illume("status", "last", "--json").data["stages"]}
    assert states == {"said": "COMMITTED", "loud": "TAKEN_DOWN", "pair": "COMMITTED"}
    assert newest(illume)["state"] == "SUCCEEDED"
    shown = illume("show", "last", "--json").data
    assert {stage["stage_id"]: bool(stage["folder"]) for stage in shown["stages"]} == {
        "said": True,
        "loud": False,
        "pair": True,
    }
