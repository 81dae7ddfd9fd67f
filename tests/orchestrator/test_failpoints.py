"""Failpoints are armed by the environment, and act on the pass that it names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import RecipeError
from orchestrator.failpoints import ONCE_VARIABLE, VARIABLE, parse

PASS_THREE_TIMES = """
from orchestrator.errors import StoreError
from orchestrator.failpoints import hit
for number in range(1, 4):
    try:
        hit("artifact.files")
    except StoreError as error:
        print(number, error)
"""


def passes(**environment: str) -> str:
    command = [sys.executable, "-c", PASS_THREE_TIMES]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "text", ["artifact.files", "nothing=kill", "artifact.files=explode", "artifact.files=kill@x", "artifact.files=hold"]
)
def test_an_unknown_point_or_action_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="expected POINT=ACTION with one of kill, freeze, raise, delay, hold"):
        parse(text)


def test_points_are_parsed_with_their_actions() -> None:
    assert parse("") == {}
    armed = parse(" artifact.files=delay:0.5@3 ; shard.commit=kill ")
    assert (armed["artifact.files"].seconds, armed["artifact.files"].passes_left) == (0.5, 3)
    assert armed["shard.commit"].action == "kill"
    assert parse("shard.files=hold:/a/b@2")["shard.files"].file == "/a/b"


def test_a_point_acts_on_the_named_pass_only() -> None:
    assert passes() == ""
    assert passes(**{VARIABLE: "artifact.files=raise@2"}) == "2 failpoint artifact.files\n"


def test_with_a_marker_folder_a_point_acts_in_one_process_only(tmp_path: Path) -> None:
    environment = {VARIABLE: "artifact.files=raise", ONCE_VARIABLE: str(tmp_path)}
    assert [passes(**environment) for _ in range(2)] == ["1 failpoint artifact.files\n", ""]


def test_a_hold_lasts_until_its_file_exists(tmp_path: Path) -> None:
    file = tmp_path / "go-on"
    environment = {**os.environ, VARIABLE: f"artifact.files=hold:{file}@2"}
    command = [sys.executable, "-u", "-c", PASS_THREE_TIMES.replace("hit(", "print(number); hit(")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["1\n", "2\n"]
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        file.touch()
        assert process.stdout.readline() == "3\n"
