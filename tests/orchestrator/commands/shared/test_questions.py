"""Questions about samples on the command line; mistakes are named with what to give instead."""

from pathlib import Path

import pytest

from orchestrator.commands.shared.questions import make_questions
from orchestrator.errors import RecipeError


def test_a_question_is_needed() -> None:
    with pytest.raises(RecipeError, match="nothing to search for; give an image, an id, a SHA-256"):
        make_questions((), (), 10)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.jpg"
    file.write_bytes(b"not an image")
    with pytest.raises(RecipeError, match=r"broken\.jpg: .*; give an image, an id, a SHA-256, or a list of those"):
        make_questions((str(file),), (), 10)
