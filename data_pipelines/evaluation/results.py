"""What a model did with a sample, and the scores of it. Objects are (shape, colour) pairs."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_pipelines.datasets.samples import IMAGE

Task = Literal["reconstruction", "generation", "understanding", "editing", "enlargement"]
TASKS: tuple[Task, ...] = ("reconstruction", "generation", "understanding", "editing", "enlargement")
Objects = Sequence[tuple[str, str]]  # (shape, colour)
RESULTS_FILE = "results.jsonl"
OBJECT_FIELDS = ("expected", "source", "found", "baseline_found")


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a sample in a task. Objects are None if the sample has no known scene.

    The baseline is what takes no model of the task: the source of an edit as it is, and for the diffusion decoder what
    the tokenizer itself decodes, enlarged to the same size.
    """

    task: Task
    sample_id: str
    prompt: str
    answer: str = ""
    expected_answer: str = ""
    expected: list[tuple[str, str]] | None = None
    source: list[tuple[str, str]] | None = None  # objects of the image to edit
    found: list[tuple[str, str]] | None = None  # objects detected in the drawn image, or parsed from the answer
    scores: dict[str, float] = field(default_factory=dict)  # PSNR in dB and SSIM against the target image, ...
    baseline_found: list[tuple[str, str]] | None = None
    baseline_scores: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # "input", "target", "drawn", "baseline" -> PNG file


def write_results(results: Sequence[Result], folder: Path) -> None:
    with (folder / RESULTS_FILE).open("w", encoding="utf-8") as file:
        for result in results:
            file.write(json.dumps(asdict(result), sort_keys=True) + "\n")


def read_results(folder: Path) -> list[Result]:
    """The results that `write_results` wrote to a folder, with the paths of their images, which lie beside them."""
    results = []
    for line in (folder / RESULTS_FILE).read_text(encoding="utf-8").splitlines():
        fields: dict[str, Any] = json.loads(line)
        for name in OBJECT_FIELDS:
            if fields[name] is not None:
                fields[name] = [(shape, colour) for shape, colour in fields[name]]
        fields["files"] = {name: str(folder / file) for name, file in fields["files"].items()}
        results.append(Result(**fields))
    return results


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


def is_right(result: Result) -> bool | None:
    """Whether exactly the expected objects were found, or the expected answer given; None if nobody can say."""
    if result.expected is not None:
        return Counter(result.expected) == Counter(result.found or ())
    if result.expected_answer:
        return same_answer(result.answer, result.expected_answer)
    return None


def same_answer(answer: str, expected: str) -> bool:
    """Equal texts, whatever their case, spaces and closing dot."""
    return _plain(answer) == _plain(expected)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def question_of(prompt: str) -> str:
    """The text of a prompt without its image placeholders."""
    return prompt.replace(IMAGE, "").strip()


def paired_objects(expected: Objects, found: Objects) -> list[tuple[tuple[str, str] | None, tuple[str, str] | None]]:
    """Each expected object with the found one that it became: equal ones first, then of equal colour, then of equal
    shape, then in their order. None: missing, or found without being expected."""
    left, right = list(expected), list(found)
    pairs: list[tuple[tuple[str, str] | None, tuple[str, str] | None]] = []
    for alike in (
        lambda one, other: one == other,
        lambda one, other: one[1] == other[1],
        lambda one, other: one[0] == other[0],
        lambda one, other: True,
    ):
        for wanted in list(left):
            match = next((seen for seen in right if alike(wanted, seen)), None)
            if match is not None:
                left.remove(wanted)
                right.remove(match)
                pairs.append((wanted, match))
    return pairs + [(wanted, None) for wanted in left] + [(None, seen) for seen in right]
