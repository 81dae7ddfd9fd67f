"""`illume generate`, `describe`, `ask` and `edit`: without a run they say what to do."""

from pathlib import Path

import pytest

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


@pytest.mark.parametrize(
    "arguments", [["generate", "a cat"], ["describe", "x.png"], ["ask", "x.png", "what?"], ["edit", "x.png", "red"]]
)
def test_without_a_run_there_are_no_models(illume: Illume, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    answer = illume(*arguments)
    assert answer.code == 2
    assert "run" in answer.err
    assert "Traceback" not in answer.err
