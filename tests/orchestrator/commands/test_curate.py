"""`illume curate FOLDER`: one path, named once; what is read how is shown before anything runs."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from orchestrator.cli import cli


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text(f"a thing, number {number}")
    return folder


def test_a_folder_of_images_with_words_is_named_once(photos: Path) -> None:
    answer = CliRunner().invoke(cli, ["curate", "photos", "--plan"])
    assert answer.exit_code == 0, answer.output
    assert "ingested reads:\n  photos: 3 pictures, 3 with words beside them\n" in answer.output
    assert 'photos[0]: understanding, 0.jpg, "a thing, number 0"' in answer.output
    assert "2 to run" in answer.output


def test_a_path_that_is_not_there_is_named(photos: Path) -> None:
    answer = CliRunner().invoke(cli, ["curate", "nowhere", "--plan"])
    assert answer.exit_code != 0
    assert "nowhere: no such file or folder" in str(answer.exception)
