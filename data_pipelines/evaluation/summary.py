"""Summaries of evaluation results: metrics with their chance levels, and one contact sheet of images."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from data_pipelines.evaluation.evaluate import TASKS, Result, question_of
from data_pipelines.images.contact_sheet import Cell, Row, contact_sheet

Objects = Sequence[tuple[str, str]]  # (shape, colour)
IMAGES_PER_TASK = 8


def summarize(results: Sequence[Result], frequent_answers: Mapping[str, str]) -> dict[str, float]:
    """Means by task. `frequent_answers` is the most frequent answer to each question in the training data.

    `<task>/objects_right` is the share of expected objects found with their shape and colour; `/exact` the share of
    samples with all of them and no others. `/chance` of each is the same metric with every result compared with the
    truth of another sample (absent for a single sample); `editing/exact_if_copied` is the score of returning the source
    unchanged.
    """
    metrics: dict[str, float] = {}
    for task in TASKS:
        task_results = [result for result in results if result.task == task]
        if not task_results:
            continue
        metrics[f"{task}/samples"] = float(len(task_results))
        for name in sorted({name for result in task_results for name in result.scores}):
            metrics[f"{task}/{name}"] = _mean([result.scores[name] for result in task_results])
        known = [result for result in task_results if result.expected is not None]
        for name, score in (("objects_right", objects_right), ("colours_right", colours_right), ("exact", exact)):
            metrics.update(_with_chance(f"{task}/{name}", known, score))
        copied = [exact(result.expected or (), result.source) for result in known if result.source is not None]
        if copied:
            metrics[f"{task}/exact_if_copied"] = _mean(copied)
        metrics.update(_answers(task, [result for result in task_results if result.expected is None], frequent_answers))
    return metrics


def objects_right(expected: Objects, found: Objects) -> float:
    """Share of the expected objects that were found."""
    return (Counter(expected) & Counter(found)).total() / max(1, len(expected))


def colours_right(expected: Objects, found: Objects) -> float:
    """Share of the expected colours that were found, whatever the shapes."""
    wanted, seen = Counter(colour for _, colour in expected), Counter(colour for _, colour in found)
    return (wanted & seen).total() / max(1, len(expected))


def exact(expected: Objects, found: Objects) -> float:
    """1 if exactly the expected objects were found."""
    return float(Counter(expected) == Counter(found))


def results_sheet(results: Sequence[Result]) -> Image.Image:
    """A contact sheet of inputs, targets and drawn images, a few of each task."""
    rows: list[Row] = []
    for task in TASKS:
        shown = [result for result in results if result.task == task][:IMAGES_PER_TASK]
        for name in ("input", "target", "drawn"):
            cells = [
                Cell(image=_open(Path(result.files[name])), text=_caption(result, name))
                for result in shown
                if name in result.files and not (task == "generation" and name == "input")
            ]
            if cells:
                rows.append(Row(label=f"{task}: {name}", cells=cells))
    return contact_sheet(rows)


def _with_chance(
    name: str, results: Sequence[Result], score: Callable[[Objects, Objects], float]
) -> Mapping[str, float]:
    if not results:
        return {}
    found = [result.found or () for result in results]
    expected = [result.expected or () for result in results]
    metrics = {name: _mean([score(wanted, seen) for wanted, seen in zip(expected, found, strict=True)])}
    if len(results) > 1:
        others = [*expected[1:], expected[0]]
        metrics[f"{name}/chance"] = _mean([score(wanted, seen) for wanted, seen in zip(others, found, strict=True)])
    return metrics


def _answers(task: str, results: Sequence[Result], frequent_answers: Mapping[str, str]) -> Mapping[str, float]:
    """Share of exact text answers; `blind` is that of the most frequent answer to each question, ignoring the image."""
    answered = [result for result in results if result.expected_answer]
    if not answered:
        return {}
    guesses = [frequent_answers.get(question_of(result.prompt), frequent_answers.get("", "")) for result in answered]
    truths = [_plain(result.expected_answer) for result in answered]
    return {
        f"{task}/answers_right": _share_equal([result.answer for result in answered], truths),
        f"{task}/answers_right/blind": _share_equal(guesses, truths),
        f"{task}/answers": float(len(answered)),
    }


def _share_equal(answers: Sequence[str], truths: Sequence[str]) -> float:
    return _mean([float(_plain(answer) == truth) for answer, truth in zip(answers, truths, strict=True)])


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def _caption(result: Result, name: str) -> str:
    """The text below an image: the request, and the objects found in a drawn image."""
    asked = _request_text(result.prompt)
    if result.task == "understanding":
        return f"{asked} {result.answer}"
    if result.task == "editing" and name == "input":
        return asked
    if name != "drawn":
        return ""
    found = "found: " + (
        ", ".join(f"{colour} {shape}" for shape, colour in result.found) if result.found else "nothing"
    )
    wanted = f"{asked} " if result.task == "generation" else ""
    return wanted + (found if result.found is not None else "")


def _request_text(prompt: str) -> str:
    """The text of a request without the fixed parts of its template."""
    text = question_of(prompt)
    for opening in ("the content of image is", "according to the instruction:"):
        text = text.split(opening, 1)[-1]
    return text.strip()


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
