"""`illume takedown`: mistakes are named; applied takedowns are listed."""

import json
from pathlib import Path

import pytest

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


@pytest.mark.parametrize("content", ["", "[]", '{"state": "x"}'])
def test_a_file_that_is_not_a_takedown_is_refused(illume: Illume, content: str, tmp_path: Path) -> None:
    file = tmp_path / "t.takedown.json"
    file.write_text(content)
    answer = illume("takedown", "apply", str(file))
    assert answer.code == 2
    assert "t.takedown.json" in answer.err
    assert illume("takedown", "list").out == ""


def test_a_takedown_is_applied_once_and_only_while_its_plan_covers_the_store(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    planned = illume("takedown", "plan", "no-such-sample", "--id", "T1", "--json")
    assert planned.code == 0, planned.err
    assert planned.data["unanswered"] == ["no-such-sample"]
    illume("run", "words.yaml", "--set", "stages.loud.config.times=3")
    stale = illume("takedown", "apply", "T1.takedown.json")
    assert (stale.code, "plan it again with `illume takedown plan`" in stale.err) == (2, True)
    illume("takedown", "plan", "no-such-sample", "--id", "T1")
    applied = illume("takedown", "apply", "T1.takedown.json")
    assert "T1 is applied: 0 shards and 0 artifacts retracted, 0 models marked" in applied.out
    assert [takedown["id"] for takedown in json.loads(illume("takedown", "list", "--json").out)] == ["T1"]
    again = illume("takedown", "plan", "no-such-sample", "--id", "T1")
    assert (again.code, "takedown 'T1' was already applied" in again.err) == (2, True)
