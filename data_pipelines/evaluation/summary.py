"""Metrics of an evaluation: means with 95 % intervals, chance, and what the baseline reaches."""

import math
from collections.abc import Callable, Mapping, Sequence

from data_pipelines.evaluation.intervals import mean_interval, share_interval
from data_pipelines.evaluation.results import (
    TASKS,
    Objects,
    Result,
    Task,
    colours_right,
    exact,
    objects_right,
    question_of,
    same_answer,
)
from data_pipelines.shapes.language import parse_caption

Score = Callable[[Objects, Objects], float]
OBJECT_SCORES: Mapping[str, Score] = {"objects_right": objects_right, "colours_right": colours_right, "exact": exact}
SHARES = frozenset({*OBJECT_SCORES, "answers_right", "unchanged"})  # scores of 0 to 1


def summarize(results: Sequence[Result], frequent_answers: Mapping[str, str]) -> dict[str, float]:
    """Means by task. `frequent_answers` is the most frequent answer to each question in the training data.

    `<task>/objects_right` is the share of expected objects found with their shape and colour; `/exact` the share of
    samples with all of them and no others. Of each score, `/low` and `/high` are the ends of its 95 % interval,
    `/chance` is the same with every result compared with the truth of another sample (absent for a single sample), and
    `/baseline` what takes no model of the task: the unchanged source of an edit, the most frequent answer to a
    question, the enlarged output of the tokenizer for the diffusion decoder.
    """
    metrics: dict[str, float] = {}
    for task in TASKS:
        task_results = [result for result in results if result.task == task]
        if not task_results:
            continue
        metrics[f"{task}/samples"] = float(len(task_results))
        metrics.update(_similarities(task, task_results))
        known = [result for result in task_results if result.expected is not None]
        metrics.update(_objects(task, known, frequent_answers))
        metrics.update(_answers(task, [result for result in task_results if result.expected is None], frequent_answers))
    return metrics


def _similarities(task: Task, results: Sequence[Result]) -> dict[str, float]:
    """Means of the scores that each result holds: PSNR, SSIM and what an edit left unchanged."""
    metrics: dict[str, float] = {}
    for name in sorted({name for result in results for name in result.scores}):
        values = [result.scores[name] for result in results if name in result.scores]
        metrics.update(_mean_with_interval(f"{task}/{name}", values))
        if len(values) < len(results):
            metrics[f"{task}/{name}/samples"] = float(len(values))
        baseline = [result.baseline_scores[name] for result in results if name in result.baseline_scores]
        if baseline:
            metrics[f"{task}/{name}/baseline"] = _mean(baseline)
    return metrics


def _objects(task: Task, results: Sequence[Result], frequent_answers: Mapping[str, str]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if not results:
        return metrics
    found = [result.found or () for result in results]
    expected = [result.expected or () for result in results]
    baselines = [_baseline_objects(result, frequent_answers) for result in results]
    metrics[f"{task}/objects"] = float(sum(map(len, expected)))
    for name, score in OBJECT_SCORES.items():
        values = [score(wanted, seen) for wanted, seen in zip(expected, found, strict=True)]
        metrics.update(_mean_with_interval(f"{task}/{name}", values))
        if len(results) > 1:
            others = [*expected[1:], expected[0]]
            chance = [score(wanted, seen) for wanted, seen in zip(others, found, strict=True)]
            metrics[f"{task}/{name}/chance"] = _mean(chance)
        compared = [score(wanted, seen) for wanted, seen in zip(expected, baselines, strict=True) if seen is not None]
        if compared:
            metrics[f"{task}/{name}/baseline"] = _mean(compared)
    return metrics


def _baseline_objects(result: Result, frequent_answers: Mapping[str, str]) -> Objects | None:
    if result.baseline_found is not None:
        return result.baseline_found
    if result.task != "understanding" or not frequent_answers:
        return None
    return [(thing.shape, thing.colour) for thing in parse_caption(_usual_answer(result, frequent_answers)) or ()]


def _answers(task: Task, results: Sequence[Result], frequent_answers: Mapping[str, str]) -> dict[str, float]:
    """Share of exact text answers."""
    answered = [result for result in results if result.expected_answer]
    if not answered:
        return {}
    right = [float(same_answer(result.answer, result.expected_answer)) for result in answered]
    usual = [float(same_answer(_usual_answer(result, frequent_answers), result.expected_answer)) for result in answered]
    return {
        **_mean_with_interval(f"{task}/answers_right", right),
        f"{task}/answers_right/baseline": _mean(usual),
        f"{task}/answers": float(len(answered)),
    }


def _usual_answer(result: Result, frequent_answers: Mapping[str, str]) -> str:
    return frequent_answers.get(question_of(result.prompt), frequent_answers.get("", ""))


def _mean_with_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    interval = share_interval if name.rpartition("/")[2] in SHARES else mean_interval
    low, high = interval(values)
    ends = {f"{name}/low": low, f"{name}/high": high}
    return {name: _mean(values)} | {end: value for end, value in ends.items() if math.isfinite(value)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
