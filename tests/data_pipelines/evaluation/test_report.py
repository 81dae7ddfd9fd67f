"""What the report says of figures: warnings, confusions, and the table for people."""

from collections.abc import Sequence
from typing import Any

from data_pipelines.evaluation.report import confusions, report_json, report_text, score_text, warnings
from data_pipelines.evaluation.results import Result, Task
from data_pipelines.evaluation.summary import summarize

RED_SQUARE, RED_CIRCLE, BLUE_CIRCLE = ("square", "red"), ("circle", "red"), ("circle", "blue")
Objects = list[tuple[str, str]]


def drawn(task: Task, expected: Objects, found: Objects, **fields: Any) -> Result:
    return Result(task=task, sample_id="a", prompt="", expected=expected, found=found, **fields)


def decoded(own: float, tokenizer: float) -> Sequence[Result]:
    scores = {"scores": {"psnr_db": own, "ssim": 0.9}, "baseline_scores": {"psnr_db": tokenizer, "ssim": 0.8}}
    return [drawn("enlargement", [RED_SQUARE], [RED_SQUARE], **scores)] * 100


def test_a_decoder_that_does_not_beat_the_tokenizer_is_said_to() -> None:
    (said,) = warnings(summarize(decoded(18.5, 21.0), {}))
    assert "does not beat the tokenizer's own output enlarged to the same size: PSNR 18.5 dB against 21.0 dB" in said
    assert "SSIM" not in said
    assert warnings(summarize(decoded(22.5, 21.0), {})) == []


def test_edits_no_better_than_copies_are_said_to_be() -> None:
    def edits(found: Objects) -> Sequence[Result]:
        return [drawn("editing", [RED_SQUARE], found, baseline_found=[RED_SQUARE])] * 100

    (said,) = warnings(summarize(edits([BLUE_CIRCLE]), {}))
    assert said.startswith("edits are no better than copies of their source: objects right 0 % against 100 %")


def half_right(count: int) -> Sequence[Result]:
    return [drawn("generation", [RED_SQUARE], [RED_SQUARE] if number % 2 else []) for number in range(count)]


def test_figures_from_too_few_samples_say_how_sure_they_are_and_how_many_are_enough() -> None:
    (said,) = warnings(summarize(half_right(8), {}))
    assert "text to image 28 points (8 samples; 96 give 10)" in said
    assert warnings(summarize(half_right(96), {})) == []
    assert warnings(summarize(half_right(88), {})) != []


def test_confusions_count_each_shape_and_colour() -> None:
    found = confusions(
        [
            drawn("generation", [RED_SQUARE], [RED_CIRCLE]),
            drawn("generation", [RED_SQUARE, BLUE_CIRCLE], [BLUE_CIRCLE]),
            drawn("generation", [RED_SQUARE], [RED_SQUARE, BLUE_CIRCLE]),
        ]
    )
    assert found["shape"] == {
        "circle": {"circle": 1},
        "none": {"circle": 1},
        "square": {"circle": 1, "none": 1, "square": 1},
    }
    assert found["colour"] == {"blue": {"blue": 1}, "none": {"blue": 1}, "red": {"none": 1, "red": 2}}


def test_the_report_has_every_score_with_interval_chance_and_baseline() -> None:
    results = [
        *decoded(18.5, 21.0),
        drawn("generation", [RED_SQUARE], [RED_CIRCLE], scores={"psnr_db": 12.0}),
        Result(task="understanding", sample_id="b", prompt="which?", expected_answer="red", answer="red"),
    ]
    metrics = summarize(results, {"which?": "blue"})
    text = report_text(results, metrics)
    assert "| diffusion decoder | PSNR | 18.5 dB | 18.5 to 18.5 dB |  | 21.0 dB | 100 |" in text
    assert "| captions and questions | questions right | 100 % | 21 to 100 % |  | 0 % | 1 |" in text
    assert "| text to image | PSNR" not in text  # a caption does not say where its objects are
    assert "- shape square: 0 of 1 right; as circle 1" in text
    found = report_json(results, metrics)
    assert found["metrics"] == metrics
    assert found["warnings"] == warnings(metrics)
    assert set(found["confusions"]) == {"generation", "enlargement"}


def test_a_score_in_words() -> None:
    metrics = {
        "generation/objects_right": 0.56,
        "generation/objects_right/low": 0.49,
        "generation/objects_right/high": 0.63,
        "generation/objects_right/chance": 0.08,
    }
    assert score_text("generation", "objects_right", metrics) == "objects right 56 % (49 to 63 %), chance 8 %"


def test_no_results_make_a_report_without_figures() -> None:
    assert "No warnings." in report_text([], {})
