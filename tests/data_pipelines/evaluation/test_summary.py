"""Metrics of an evaluation with their chance levels, and the sheet of images, on results made by hand."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.evaluation.evaluate import Result
from data_pipelines.evaluation.summary import IMAGES_PER_TASK, exact, objects_right, results_sheet, summarize
from data_pipelines.images.contact_sheet import Cell, Row, contact_sheet

STAR, DISC, CROSS = ("star", "red"), ("circle", "blue"), ("cross", "green")
Objects = list[tuple[str, str]]


def drawn(expected: Objects, found: Objects, **fields: object) -> Result:
    return Result(task="generation", sample_id="a", prompt="draw", expected=expected, found=found, **fields)  # type: ignore[arg-type]  # by name


def answered(prompt: str, expected: str, answer: str) -> Result:
    return Result(task="understanding", sample_id="a", prompt=prompt, expected_answer=expected, answer=answer)


@pytest.mark.parametrize(
    ("expected", "found", "share", "all_right"),
    [
        ([STAR, DISC], [DISC, STAR], 1.0, 1.0),
        ([STAR, DISC], [STAR], 0.5, 0.0),
        ([STAR], [STAR, CROSS], 1.0, 0.0),  # one too many
        ([STAR, STAR], [STAR], 0.5, 0.0),  # the same twice counts twice
        ([STAR], [], 0.0, 0.0),
    ],
)
def test_objects_are_counted_with_shape_and_colour(
    expected: Objects, found: Objects, share: float, all_right: float
) -> None:
    assert objects_right(expected, found) == share
    assert exact(expected, found) == all_right


def test_metrics_are_means_over_the_samples_of_a_task() -> None:
    metrics = summarize(
        [
            drawn([STAR], [STAR], scores={"psnr_db": 20.0}),
            drawn([DISC], [("star", "blue")], scores={"psnr_db": 30.0}),
        ],
        frequent_answers={},
    )
    assert metrics["generation/samples"] == 2
    assert metrics["generation/objects_right"] == 0.5
    assert metrics["generation/colours_right"] == 1.0
    assert metrics["generation/exact"] == 0.5
    assert metrics["generation/psnr_db"] == 25.0
    assert not [name for name in metrics if not name.startswith("generation/")]


def test_chance_holds_each_result_against_the_truth_of_another_sample() -> None:
    blind = summarize([drawn([STAR], [STAR]), drawn([STAR], [STAR])], {})
    seeing = summarize([drawn([STAR], [STAR]), drawn([DISC], [DISC])], {})
    assert (blind["generation/exact"], blind["generation/exact/chance"]) == (1.0, 1.0)
    assert (seeing["generation/exact"], seeing["generation/exact/chance"]) == (1.0, 0.0)


def test_a_lone_sample_has_no_chance_level() -> None:
    metrics = summarize([drawn([STAR], [STAR])], {})
    assert metrics["generation/exact"] == 1.0
    assert "generation/exact/chance" not in metrics


def test_an_edit_is_compared_with_giving_the_source_back() -> None:
    def edited(source: Objects) -> Result:
        return Result(task="editing", sample_id="a", prompt="edit", expected=[STAR], source=source, found=[STAR])

    assert summarize([edited([DISC]), edited([STAR])], {})["editing/exact_if_copied"] == 0.5


def test_answers_are_compared_with_the_most_frequent_answer_to_the_question() -> None:
    metrics = summarize(
        [
            answered("how many?", "two", "Two."),
            answered("how many?", "two", "one"),
            answered("how many?", "one", " one "),
            answered("which?", "the red star", "the  red star."),
            answered("never asked in training?", "yes", "no"),
        ],
        frequent_answers={"how many?": "two", "which?": "the blue star", "": "yes"},
    )
    assert metrics["understanding/answers"] == 5
    assert metrics["understanding/answers_right"] == 0.6
    assert metrics["understanding/answers_right/blind"] == 0.6  # "two" twice, and the usual answer to anything


def test_nothing_tried_gives_no_metrics() -> None:
    assert summarize([], {}) == {}


def test_the_sheet_shows_a_few_samples_of_each_task(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 20), "red").save(path)
    files = {"input": str(path), "drawn": str(path)}
    with_target = files | {"target": str(path)}
    edits = [Result(task="editing", sample_id="a", prompt="<image>\nEdit", found=[STAR], files=with_target)]
    many = [drawn([STAR], [DISC], files=files)] * (IMAGES_PER_TASK + 3)
    found = results_sheet([*many, *edits])
    rows: Sequence[Row] = [Row(label="x", cells=[Cell(image=None)] * IMAGES_PER_TASK)] * 4
    assert found.size == contact_sheet(rows).size  # generation: drawn; editing: input, target, drawn
    counts = {colour: count for count, colour in found.getcolors(maxcolors=2**16) or ()}
    assert counts[(255, 0, 0)] == (IMAGES_PER_TASK + 3) * 128 * 64


def test_a_sheet_of_nothing_can_be_saved(tmp_path: Path) -> None:
    results_sheet([]).save(tmp_path / "sheet.png")


def test_a_cell_keeps_the_shape_of_its_image() -> None:
    wide = contact_sheet([Row(label="", cells=[Cell(image=Image.new("RGB", (64, 16), (255, 0, 0)))])], cell_px=128)
    counts = {colour: count for count, colour in wide.getcolors(maxcolors=2**16) or ()}
    assert counts[(255, 0, 0)] == 128 * 32
