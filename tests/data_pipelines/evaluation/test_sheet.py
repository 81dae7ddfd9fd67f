"""The contact sheet: which samples it shows, where, and the marks of right and wrong ones."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.evaluation.results import Result, Task
from data_pipelines.evaluation.sheet import RIGHT, WRONG, results_sheet
from data_pipelines.evaluation.summary import summarize

STAR, DISC = ("star", "red"), ("circle", "blue")
BLOCK_PX = 93 * 93


@pytest.fixture
def images(tmp_path: Path) -> dict[str, str]:
    files = {}
    for name, colour in (("input", (0, 0, 255)), ("target", (0, 255, 0)), ("drawn", (255, 0, 0))):
        files[name] = str(tmp_path / f"{name}.png")
        Image.new("RGB", (43, 43), colour).save(files[name])
    return files


def drawn(task: Task, files: dict[str, str], *, number: int = 0, right: bool = True, psnr: float = 20.0) -> Result:
    return Result(
        task=task,
        sample_id=f"{number:04d}",
        prompt="Generate an image, the content of image is a red star",
        expected=[STAR],
        found=[STAR] if right else [DISC],
        scores={"psnr_db": psnr},
        files=files,
    )


def sheet(results: Sequence[Result]) -> dict[tuple[int, ...], int]:
    """How many pixels of each colour are on the sheet."""
    image = results_sheet(results, summarize(results, {}))
    return {colour: count for count, colour in image.getcolors(maxcolors=2**20) or () if isinstance(colour, tuple)}


def test_the_best_the_middle_and_the_worst_are_shown(tmp_path: Path) -> None:
    files = {}
    for number in range(30):
        files[number] = str(tmp_path / f"{number}.png")
        Image.new("RGB", (43, 43), (200, number, 100)).save(files[number])
    results = [
        drawn("generation", {"drawn": files[number]}, number=number, right=number < 20, psnr=40.0 - number)
        for number in range(30)
    ]
    shown = {colour[1] for colour in sheet(results) if colour[0] == 200 and colour[2] == 100}
    assert shown == {0, 1, 2, 13, 14, 15, 27, 28, 29}


def test_few_samples_are_shown_once_each(images: dict[str, str]) -> None:
    for count in (1, 2, 4, 7):
        colours = sheet([drawn("generation", images, number=number) for number in range(count)])
        shown = count if count < 3 else 3 * (count // 3)
        assert colours[(255, 0, 0)] == pytest.approx(shown * BLOCK_PX, rel=0.1)


def test_an_edit_shows_input_target_and_output_at_one_scale(images: dict[str, str], tmp_path: Path) -> None:
    large = str(tmp_path / "large.png")
    Image.new("RGB", (400, 400), (0, 0, 255)).save(large)
    colours = sheet([drawn("editing", images | {"input": large})])
    assert colours[(255, 0, 0)] == colours[(0, 255, 0)] == colours[(0, 0, 255)] > 0


def test_right_and_wrong_are_marked(images: dict[str, str]) -> None:
    right, wrong = (sheet([drawn("generation", images, right=right)] * 200) for right in (True, False))
    assert (RIGHT in right, WRONG in right) == (True, False)
    assert (RIGHT in wrong, WRONG in wrong) == (False, True)


def test_a_sheet_of_nothing_can_be_saved(tmp_path: Path) -> None:
    results_sheet([], {}).save(tmp_path / "sheet.png")
