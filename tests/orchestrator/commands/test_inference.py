"""`illume generate`, `describe`, `ask` and `edit`: without a run they say what to do; what they print."""

from pathlib import Path
from typing import Any

import pytest

from stages import finished_run
from tests.orchestrator import test_cli
from tests.orchestrator.reference.test_outputs import check_output
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


@pytest.mark.parametrize(
    ("arguments", "answer", "printed"),
    [
        (["generate", "a cat", "--seed", "3"], [Path("a.png"), Path("b.png")], "a.png\nb.png\n"),
        (["describe", "x.png"], "a red star", "a red star\n"),
        (["ask", "x.png", "what?"], "a star", "a star\n"),
        (["edit", "x.png", "red"], [Path("red.png")], "red.png\n"),
    ],
)
def test_answers_are_printed_as_text_and_as_json(
    illume: Illume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], answer: Any, printed: str
) -> None:
    """What the models answer is tested with models, in end_to_end; here it is given."""
    command = arguments[0]
    (tmp_path / "x.png").touch()
    illume("run", "words.yaml")
    monkeypatch.setattr(finished_run, command, lambda *_arguments, **_options: answer)
    assert illume(*arguments).out == printed
    value = illume(*arguments, "--json").data
    check_output(command, value)
    assert value.get("files", value.get("text")) == (answer if isinstance(answer, str) else list(map(str, answer)))
