"""Which models of a run are used, with which settings, and what is written."""

from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.inference.settings import published_settings
from orchestrator.errors import RecipeError
from stages.finished_run import _open, _save, models_stage
from tests.stages.test_kinds import planned


def test_models_in_use_are_those_of_the_evaluation_or_of_the_export() -> None:
    assert models_stage(planned("quickstart")).spec.kind.name == "evaluate"
    assert models_stage(planned("published_3b")).spec.kind.name == "export"
    with pytest.raises(RecipeError, match="has no stage of the kind 'evaluate' or 'export'"):
        models_stage(planned("photos"))
    assert published_settings().generation.guidance == 2.0


def test_one_image_goes_to_the_named_file_and_several_into_a_folder(tmp_path: Path) -> None:
    images = [Image.new("RGB", (2, 2), (value, 0, 0)) for value in range(3)]
    assert _save(images[:1], tmp_path / "one.png") == [tmp_path / "one.png"]
    several = _save(images, tmp_path / "several.png")
    assert several == [tmp_path / "several" / f"00{number}.png" for number in range(3)]
    assert all(file.is_file() for file in several)


def test_an_image_is_opened_upright_and_anything_else_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new("RGB", (4, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert _open(tmp_path / "turned.jpg").size == (2, 4)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(RecipeError, match=r"text.png: not an image that can be opened .*; give a PNG, JPEG or WebP"):
        _open(tmp_path / "text.png")
