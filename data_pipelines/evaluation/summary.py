"""Results of an evaluation as figures with their chance levels, and as one sheet of pictures."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from data_pipelines.evaluation.evaluate import TASKS, Result, question_of
from data_pipelines.images.contact_sheet import Cell, Row, contact_sheet

Objects = Sequence[tuple[str, str]]  # (shape, colour)
PICTURES_PER_TASK = 8


def summarize(results: Sequence[Result], usual: Mapping[str, str]) -> dict[str, float]:
    """Means by task. `usual` is the most frequent answer to each question, as the training data have it.

    `<task>/objects_right` is the share of expected objects found with their shape and colour; `/exact` the share of
    samples with all of them and nothing else. `/chance` of each is the same figure when every result is held against
    the truth of another sample (a lone one has none); `editing/exact_if_copied` is what giving the source back would
    score.
    """
    figures: dict[str, float] = {}
    for task in TASKS:
        of_task = [result for result in results if result.task == task]
        if not of_task:
            continue
        figures[f"{task}/samples"] = float(len(of_task))
        for name in sorted({name for result in of_task for name in result.scores}):
            figures[f"{task}/{name}"] = _mean([result.scores[name] for result in of_task])
        known = [result for result in of_task if result.expected is not None]
        for name, score in (("objects_right", objects_right), ("colours_right", colours_right), ("exact", exact)):
            figures.update(_with_chance(f"{task}/{name}", known, score))
        copied = [exact(result.expected or (), result.source) for result in known if result.source is not None]
        if copied:
            figures[f"{task}/exact_if_copied"] = _mean(copied)
        figures.update(_answers(task, [result for result in of_task if result.expected is None], usual))
    return figures


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


def sheet(results: Sequence[Result]) -> Image.Image:
    """Inputs, targets and what the models made of them, a few of each task."""
    rows: list[Row] = []
    for task in TASKS:
        shown = [result for result in results if result.task == task][:PICTURES_PER_TASK]
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
    figures = {name: _mean([score(wanted, seen) for wanted, seen in zip(expected, found, strict=True)])}
    if len(results) > 1:
        others = [*expected[1:], expected[0]]
        figures[f"{name}/chance"] = _mean([score(wanted, seen) for wanted, seen in zip(others, found, strict=True)])
    return figures


def _answers(task: str, results: Sequence[Result], usual: Mapping[str, str]) -> Mapping[str, float]:
    """Exact answers in words; blind is the usual answer to each question, whatever the picture."""
    answered = [result for result in results if result.expected_answer]
    if not answered:
        return {}
    guesses = [usual.get(question_of(result.prompt), usual.get("", "")) for result in answered]
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
    """Below a picture: what was asked for, and what was read back from what was drawn."""
    asked = _words(result.prompt)
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


def _words(prompt: str) -> str:
    """A request without the fixed words of its template."""
    text = question_of(prompt)
    for opening in ("the content of image is", "according to the instruction:"):
        text = text.split(opening, 1)[-1]
    return text.strip()


def _open(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
