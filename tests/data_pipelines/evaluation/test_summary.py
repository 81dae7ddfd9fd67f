"""Metrics of an evaluation with their intervals, chance levels and baselines, on results made by hand."""

import pytest

from data_pipelines.evaluation.intervals import mean_interval, share_interval
from data_pipelines.evaluation.results import Result
from data_pipelines.evaluation.summary import summarize

STAR, DISC, CROSS = ("star", "red"), ("circle", "blue"), ("cross", "green")
Objects = list[tuple[str, str]]


def drawn(expected: Objects, found: Objects, **fields: object) -> Result:
    return Result(task="generation", sample_id="a", prompt="draw", expected=expected, found=found, **fields)  # type: ignore[arg-type]  # by name


def answered(prompt: str, expected: str, answer: str) -> Result:
    return Result(task="understanding", sample_id="a", prompt=prompt, expected_answer=expected, answer=answer)


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
    low, high = share_interval([1.0, 0.0])
    assert (metrics["generation/objects_right/low"], metrics["generation/objects_right/high"]) == (low, high)
    low, high = mean_interval([20.0, 30.0])
    assert (metrics["generation/psnr_db/low"], metrics["generation/psnr_db/high"]) == (low, high)
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
        return Result(
            task="editing",
            sample_id="a",
            prompt="edit",
            expected=[STAR],
            source=source,
            found=[STAR],
            baseline_found=source,
        )

    assert summarize([edited([DISC]), edited([STAR])], {})["editing/exact/baseline"] == 0.5


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
    assert metrics["understanding/answers_right/baseline"] == 0.6  # "two" twice, and the usual answer to anything


def test_nothing_tried_gives_no_metrics() -> None:
    assert summarize([], {}) == {}


def test_the_decoder_is_compared_with_what_the_tokenizer_decodes() -> None:
    def enlarged(own: float, of_tokenizer: float) -> Result:
        return Result(
            task="enlargement",
            sample_id="a",
            prompt="",
            expected=[STAR],
            found=[],
            scores={"psnr_db": own},
            baseline_found=[STAR],
            baseline_scores={"psnr_db": of_tokenizer},
        )

    metrics = summarize([enlarged(18.0, 23.0), enlarged(20.0, 21.0)], {})
    assert (metrics["enlargement/psnr_db"], metrics["enlargement/psnr_db/baseline"]) == (19.0, 22.0)
    assert (metrics["enlargement/objects_right"], metrics["enlargement/objects_right/baseline"]) == (0.0, 1.0)


def test_a_caption_is_compared_with_the_most_frequent_one() -> None:
    def captioned(expected: Objects) -> Result:
        return Result(
            task="understanding", sample_id="a", prompt="Describe.", expected_answer="-", expected=expected, found=[]
        )

    usual = {"Describe.": "a blue circle"}
    metrics = summarize([captioned([DISC]), captioned([("square", "red")])], usual)
    assert metrics["understanding/objects_right/baseline"] == 0.5
    assert "understanding/answers" not in metrics


def test_a_score_that_some_samples_lack_is_the_mean_of_the_others() -> None:
    results = [drawn([STAR], [STAR], scores={"unchanged": 1.0}), drawn([STAR], [STAR])]
    metrics = summarize(results, {})
    assert (metrics["generation/unchanged"], metrics["generation/unchanged/samples"]) == (1.0, 1.0)


def test_a_lone_sample_has_no_interval_of_its_similarity() -> None:
    metrics = summarize([drawn([STAR], [STAR], scores={"ssim": 0.5})], {})
    assert "generation/ssim/low" not in metrics
    assert metrics["generation/objects_right/low"] == pytest.approx(0.2065, abs=1e-4)
