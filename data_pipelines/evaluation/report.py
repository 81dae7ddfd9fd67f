"""The report of an evaluation in words: a table of scores, what was taken for what, and what a reader must know."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.evaluation.intervals import wilson_interval
from data_pipelines.evaluation.results import TASKS, Result, paired_objects
from data_pipelines.evaluation.summary import SHARES

FORMAT = 1
WIDE = 0.1  # half of an interval, as a share: figures that are less sure than this say so
TITLES = {
    "reconstruction": "reconstruction by the tokenizer",
    "generation": "text to image",
    "understanding": "captions and questions",
    "editing": "edits",
    "enlargement": "diffusion decoder",
}
SCORE_TITLES = {
    "objects_right": "objects right",
    "colours_right": "colours right",
    "exact": "all objects right, no others",
    "answers_right": "questions right",
    "unchanged": "what was not to change unchanged",
    "psnr_db": "PSNR",
    "ssim": "SSIM",
}
# Scores that say nothing: a caption does not say where its objects are, so its image may look otherwise and be right.
UNTOLD = frozenset({("generation", "psnr_db"), ("generation", "ssim")})
Confusions = Mapping[str, Mapping[str, Mapping[str, int]]]  # "shape" or "colour" -> expected -> found -> count


def warnings(metrics: Mapping[str, float]) -> list[str]:
    """What a reader of the figures must know, a sentence each: a decoder that does not beat what it is fed with, an
    edit that is no better than none, and figures from too few samples."""
    found = []
    below = _below_baseline("enlargement", ("psnr_db", "ssim"), metrics)
    if below:
        found.append(
            "the diffusion decoder does not beat the tokenizer's own output enlarged to the same size: "
            f"{', '.join(below)}; train it longer"
        )
    below = _below_baseline("editing", ("objects_right", "exact"), metrics)
    if below:
        found.append(f"edits are no better than copies of their source: {', '.join(below)}")
    few = [text for task in TASKS for text in _few_samples(task, metrics)]
    if few:
        found.append(f"few samples, so figures are sure to no more than: {'; '.join(few)}")
    return found


def confusions(results: Sequence[Result]) -> Confusions:
    """How often each shape and colour was found as what; "none": missing, or found without being expected."""
    counts: dict[str, dict[str, Counter[str]]] = {"shape": defaultdict(Counter), "colour": defaultdict(Counter)}
    for result in results:
        if result.expected is None:
            continue
        for wanted, seen in paired_objects(result.expected, result.found or ()):
            for index, feature in enumerate(("shape", "colour")):
                counts[feature][wanted[index] if wanted else "none"][seen[index] if seen else "none"] += 1
    return {
        feature: {wanted: dict(sorted(seen.items())) for wanted, seen in sorted(table.items())}
        for feature, table in counts.items()
    }


def report_json(results: Sequence[Result], metrics: Mapping[str, float]) -> dict[str, Any]:
    """`report.json`: format, the metrics, the confusions of each task with known objects, and the warnings."""
    return {
        "format": FORMAT,
        "metrics": dict(sorted(metrics.items())),
        "confusions": {
            task: confusions([result for result in results if result.task == task])
            for task in TASKS
            if f"{task}/objects" in metrics
        },
        "warnings": warnings(metrics),
    }


def report_text(results: Sequence[Result], metrics: Mapping[str, float]) -> str:
    """`report.md`: the same for people."""
    lines = ["# Evaluation on samples that no model was trained on", ""]
    lines += [f"- {warning}" for warning in warnings(metrics)] or ["No warnings."]
    lines += ["", *score_table(metrics)]
    for task in TASKS:
        if f"{task}/objects" in metrics:
            lines += ["", f"## {TITLES[task].capitalize()}: what was found as what", ""]
            lines += _confusion_lines(confusions([result for result in results if result.task == task]))
    lines += [
        "",
        "Chance: the same score against the truth of another sample. Baseline: what takes no model of the task: the "
        "source of an edit as it is, the most frequent answer to a question, the tokenizer's output enlarged for the "
        "diffusion decoder.",
    ]
    return "\n".join(lines) + "\n"


def score_table(metrics: Mapping[str, float]) -> list[str]:
    """Lines of a Markdown table with a row for each score."""
    lines = [
        "| task | score | reached | 95 % interval | chance | baseline | samples |",
        "|---|---|---|---|---|---|---|",
    ]
    told = [(task, name) for task in TASKS for name in SCORE_TITLES if (task, name) not in UNTOLD]
    return lines + [_score_line(task, name, metrics) for task, name in told if f"{task}/{name}" in metrics]


def score_text(task: str, name: str, metrics: Mapping[str, float]) -> str:
    """`objects right 56 % (49 to 63 %), chance 8 %`."""
    parts = [f"{SCORE_TITLES[name]} {_number(name, metrics[f'{task}/{name}'])}"]
    interval = _interval(task, name, metrics)
    parts[0] += f" ({interval})" if interval else ""
    parts += [
        f"{end} {_number(name, metrics[f'{task}/{name}/{end}'])}"
        for end in ("chance", "baseline")
        if f"{task}/{name}/{end}" in metrics
    ]
    return ", ".join(parts)


def _score_line(task: str, name: str, metrics: Mapping[str, float]) -> str:
    ends = [metrics.get(f"{task}/{name}/{end}") for end in ("chance", "baseline")]
    cells = [
        TITLES[task],
        SCORE_TITLES[name],
        _number(name, metrics[f"{task}/{name}"]),
        _interval(task, name, metrics) or "unknown",
        *("" if value is None else _number(name, value) for value in ends),
        f"{score_samples(task, name, metrics):,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _interval(task: str, name: str, metrics: Mapping[str, float]) -> str:
    """`49 to 63 %`; empty for a single sample, whose spread is not known."""
    low, high = (metrics.get(f"{task}/{name}/{end}") for end in ("low", "high"))
    if low is None or high is None:
        return ""
    return f"{_number(name, low).partition(' ')[0]} to {_number(name, high)}"


def _number(name: str, value: float) -> str:
    if name in SHARES:
        return f"{100 * value:.0f} %"
    return f"{value:.1f} dB" if name == "psnr_db" else f"{value:.2f}"


def _confusion_lines(found: Confusions) -> list[str]:
    lines = []
    for feature, table in found.items():
        for wanted, seen in table.items():
            total = sum(seen.values())
            others = ", ".join(
                f"{name} {count}" for name, count in sorted(seen.items(), key=lambda item: -item[1]) if name != wanted
            )
            right = seen.get(wanted, 0)
            about = "objects that were not asked for" if wanted == "none" else f"{feature} {wanted}"
            counts = f"{total}" if wanted == "none" else f"{right} of {total} right"
            lines.append(f"- {about}: {counts}" + (f"; as {others}" if others else ""))
    return lines


def _half_width(metrics: Mapping[str, float], name: str) -> float:
    low, high = metrics.get(f"{name}/low"), metrics.get(f"{name}/high")
    return _width((low, high)) if low is not None and high is not None else 0.0


def _below_baseline(task: str, names: Sequence[str], metrics: Mapping[str, float]) -> list[str]:
    """`PSNR 18.8 dB against 22.7 dB` for each score that does not exceed its baseline."""
    found = []
    for name in names:
        score, baseline = (metrics.get(f"{task}/{name}{end}") for end in ("", "/baseline"))
        if score is not None and baseline is not None and score <= baseline:
            found.append(f"{SCORE_TITLES[name]} {_number(name, score)} against {_number(name, baseline)}")
    return found


def _few_samples(task: str, metrics: Mapping[str, float]) -> list[str]:
    """`edits 12 points (64 samples; 96 give 10)`, of the least sure score."""
    widest = max(sorted(SHARES), key=lambda name: _half_width(metrics, f"{task}/{name}"))
    width = _half_width(metrics, f"{task}/{widest}")
    if width <= WIDE:
        return []
    count, share = score_samples(task, widest, metrics), metrics[f"{task}/{widest}"]
    needed = next(number for number in range(8, 1000, 8) if _width(wilson_interval(share, number)) <= WIDE)
    return [f"{TITLES[task]} {100 * width:.0f} points ({count:.0f} samples; {needed} give {100 * WIDE:.0f})"]


def _width(interval: tuple[float, float]) -> float:
    """Half of it: how far the truth is on either side."""
    return (interval[1] - interval[0]) / 2


def score_samples(task: str, name: str, metrics: Mapping[str, float]) -> float:
    """How many samples a score is the mean of: questions have answers, captions and images have objects."""
    answers = metrics.get(f"{task}/answers", 0.0)
    if f"{task}/{name}/samples" in metrics:
        return metrics[f"{task}/{name}/samples"]
    if name == "answers_right":
        return answers
    return metrics[f"{task}/samples"] - answers
