"""Results of evaluation: scores of objects and answers, and what was taken for what."""

from pathlib import Path
from typing import Any

import pytest

from data_pipelines.evaluation.results import (
    Result,
    exact,
    is_right,
    objects_right,
    paired_objects,
    read_results,
    write_results,
)

STAR, DISC, CROSS = ("star", "red"), ("circle", "blue"), ("cross", "green")
Objects = list[tuple[str, str]]


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


def test_objects_are_paired_with_the_most_alike() -> None:
    red_square, green_star = ("square", "red"), ("star", "green")
    assert paired_objects([STAR, DISC], [DISC, red_square]) == [(DISC, DISC), (STAR, red_square)]
    assert paired_objects([STAR, CROSS], [green_star]) == [(CROSS, green_star), (STAR, None)]  # the colour goes first
    assert paired_objects([], [DISC]) == [(None, DISC)]
    assert paired_objects([STAR], [DISC]) == [(STAR, DISC)]


def result(**fields: Any) -> Result:
    return Result(task="understanding", sample_id="a", prompt="which?", **fields)


@pytest.mark.parametrize(
    ("found", "right"),
    [
        (result(expected=[STAR], found=[STAR]), True),
        (result(expected=[STAR], found=None), False),
        (result(expected=[], found=[]), True),
        (result(expected_answer="two", answer=" Two. "), True),
        (result(expected_answer="two", answer=""), False),
        (result(), None),
    ],
)
def test_a_result_is_right_wrong_or_nobody_can_say(found: Result, right: bool | None) -> None:
    assert is_right(found) is right


def test_results_read_back_with_the_paths_of_their_images(tmp_path: Path) -> None:
    written = result(expected=[STAR], found=[], baseline_found=[DISC], scores={"ssim": 0.5}, files={"input": "a.png"})
    write_results([written], tmp_path)
    (found,) = read_results(tmp_path)
    assert found.files == {"input": str(tmp_path / "a.png")}
    assert (found.expected, found.found, found.baseline_found) == ([STAR], [], [DISC])
    assert found.scores == {"ssim": 0.5}
