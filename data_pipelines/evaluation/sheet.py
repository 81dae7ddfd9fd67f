"""The contact sheet of an evaluation: a row for each task with its scores; its best, middle and worst samples."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data_pipelines.evaluation.report import score_text, warnings
from data_pipelines.evaluation.results import Result, Task, is_right, objects_right, question_of

SHOWN = 3  # of the best, of the middle and of the worst
CELL_PX, GAP_PX, MARGIN_PX, GROUP_GAP_PX, LABEL_PX = 108, 10, 20, 18, 66
LINE_PX, LINES, LINES_UNASKED = 14, 5, 3  # below an image; without words that were asked
HEADING_PX = 70
TEXT, QUIET, RIGHT, WRONG, RULE = (32, 32, 32), (104, 104, 104), (20, 120, 60), (190, 30, 30), (216, 216, 216)
GROUPS = ("best", "middle", "worst")
UNASKED = ("reconstruction", "enlargement")  # tasks without a request in words


@dataclass(frozen=True, kw_only=True)
class Section:
    """A row of the sheet. `images` are the files of a result with their labels, from top to bottom."""

    task: Task
    title: str
    scores: tuple[str, ...]
    images: tuple[tuple[str, str], ...]
    answers: bool | None = None  # of understanding: questions, or captions


SECTIONS = (
    Section(
        task="reconstruction",
        title="Reconstruction by the tokenizer",
        scores=("objects_right", "psnr_db", "ssim"),
        images=(("input", "input"), ("drawn", "output")),
    ),
    Section(
        task="generation",
        title="Text to image",
        scores=("objects_right", "colours_right"),
        images=(("drawn", "output"),),
    ),
    Section(
        task="understanding",
        title="Captions",
        scores=("objects_right", "colours_right"),
        images=(("input", "input"),),
        answers=False,
    ),
    Section(
        task="understanding",
        title="Questions",
        scores=("answers_right",),
        images=(("input", "input"),),
        answers=True,
    ),
    Section(
        task="editing",
        title="Edits",
        scores=("objects_right", "unchanged", "psnr_db"),
        images=(("input", "input"), ("target", "target"), ("drawn", "output")),
    ),
    Section(
        task="enlargement",
        title="Diffusion decoder, at twice the size",
        scores=("objects_right", "psnr_db", "ssim"),
        images=(("input", "input"), ("baseline", "tokenizer"), ("drawn", "output")),
    ),
)


def results_sheet(results: Sequence[Result], metrics: Mapping[str, float]) -> Image.Image:
    """Every task that has results: inputs and outputs of a sample at one scale, and whether the output is right.

    `metrics` are those that `summarize` makes of the results.
    """
    rows = [(section, found) for section in SECTIONS if (found := _results_of(section, results))]
    notes = [line for warning in warnings(metrics) for line in textwrap.wrap(f"Note: {warning}.", 185)]
    columns = max([sum(map(len, _groups(found))) for _, found in rows], default=1)
    width = MARGIN_PX + LABEL_PX + columns * (CELL_PX + GAP_PX) + (len(GROUPS) - 1) * GROUP_GAP_PX + MARGIN_PX
    top = 84 + LINE_PX * len(notes)
    sheet = Image.new("RGB", (width, top + sum(_height(section) for section, _ in rows) + MARGIN_PX), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, 14), "What the models do with samples that they have not seen", fill=TEXT, font=_font(22))
    subtitle = (
        "The best, the middle and the worst of each task. Scores are means over all its samples, with 95 % intervals."
    )
    draw.text((MARGIN_PX, 46), subtitle, fill=QUIET, font=_font(13))
    for number, line in enumerate(notes):
        draw.text((MARGIN_PX, 70 + number * LINE_PX), line, fill=WRONG, font=_font(12))
    for section, found in rows:
        _draw_section(sheet, draw, section, found, metrics, top)
        top += _height(section)
    return sheet


def _results_of(section: Section, results: Sequence[Result]) -> list[Result]:
    """Those of the section, the best first."""
    found = [
        result
        for result in results
        if result.task == section.task and section.answers in (None, result.expected is None)
    ]
    return sorted(found, key=_quality, reverse=True)


def _quality(result: Result) -> tuple[float, float, float, str]:
    """Right before wrong, then the share of right objects, then the similarity; the id decides between equals."""
    right = is_right(result)
    return (
        float(right or False),
        objects_right(result.expected or (), result.found or ()),
        result.scores.get("psnr_db", 0.0),
        result.sample_id,
    )


def _groups(found: Sequence[Result]) -> list[Sequence[Result]]:
    """The best, the middle and the worst, without overlap: fewer of each if there are few."""
    shown = min(SHOWN, len(found) // len(GROUPS))
    if not shown:
        return [found]
    middle = (len(found) - shown) // 2
    return [found[:shown], found[middle : middle + shown], found[len(found) - shown :]]


def _height(section: Section) -> int:
    return HEADING_PX + len(section.images) * (CELL_PX + GAP_PX) + _lines(section) * LINE_PX + 10


def _lines(section: Section) -> int:
    return LINES_UNASKED if section.task in UNASKED else LINES


def _draw_section(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    section: Section,
    found: Sequence[Result],
    metrics: Mapping[str, float],
    top: int,
) -> None:
    draw.line((MARGIN_PX, top, sheet.width - MARGIN_PX, top), fill=RULE, width=1)
    draw.text((MARGIN_PX, top + 8), section.title, fill=TEXT, font=_font(16))
    scores = [score_text(section.task, name, metrics) for name in section.scores if f"{section.task}/{name}" in metrics]
    counted = f"{len(found):,} sample{'s' if len(found) > 1 else ''}"
    draw.text((MARGIN_PX, top + 30), "; ".join([counted, *scores]), fill=TEXT, font=_font(12))
    left, first = MARGIN_PX + LABEL_PX, top + HEADING_PX
    for number, (_, label) in enumerate(section.images):
        draw.text((MARGIN_PX, first + number * (CELL_PX + GAP_PX) + 2), label, fill=QUIET, font=_font(12))
    groups = _groups(found)
    for name, group in zip(GROUPS if len(groups) > 1 else ("",), groups, strict=True):
        draw.text((left, first - 17), name, fill=QUIET, font=_font(12))
        for result in group:
            _draw_result(sheet, draw, section, result, (left, first))
            left += CELL_PX + GAP_PX
        left += GROUP_GAP_PX


def _draw_result(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, section: Section, result: Result, corner: tuple[int, int]
) -> None:
    left, top = corner
    size = _shown_size(result)
    for file, _ in section.images:
        if file in result.files:
            with Image.open(Path(result.files[file])) as image:
                sheet.paste(_scaled(image.convert("RGB"), size), (left, top))
            draw.rectangle((left - 1, top - 1, left + size[0], top + size[1]), outline=RULE)
        top += CELL_PX + GAP_PX
    asked, verdict = _words(section, result)
    right = is_right(result)
    lines = [(line, QUIET) for line in textwrap.wrap(asked, 18)[:3]]
    colour = TEXT if right is None else RIGHT if right else WRONG
    lines += [(line, colour) for line in textwrap.wrap(verdict, 16)[: _lines(section) - len(lines)]]
    top -= GAP_PX - 4
    marked = False
    for line, ink in lines:
        indent = 0
        if ink == colour and right is not None:
            indent = 13
            if not marked:
                _draw_mark(draw, right, (left, top + 2))
                marked = True
        draw.text((left + indent, top), line, fill=ink, font=_font(12))
        top += LINE_PX


def _draw_mark(draw: ImageDraw.ImageDraw, right: bool, corner: tuple[int, int]) -> None:
    """A tick or a cross of 9 px: readable without colours."""
    x, y = corner
    if right:
        draw.line([(x, y + 5), (x + 3, y + 9), (x + 9, y + 1)], fill=RIGHT, width=2)
        return
    draw.line([(x + 1, y + 1), (x + 9, y + 9)], fill=WRONG, width=2)
    draw.line([(x + 9, y + 1), (x + 1, y + 9)], fill=WRONG, width=2)


def _words(section: Section, result: Result) -> tuple[str, str]:
    """What was asked, and what came out as the oracle reads it."""
    asked = "" if section.task in UNASKED else _request_text(result.prompt)
    if section.task == "understanding":
        expected = "" if is_right(result) is not False else f" (expected: {result.expected_answer})"
        return asked if section.answers else "", (result.answer or "no answer") + expected
    if result.found is None:
        return asked, ""
    return asked, ", ".join(f"{colour} {shape}" for shape, colour in result.found) or "nothing found"


def _request_text(prompt: str) -> str:
    """The text of a request without the fixed parts of its template."""
    text = question_of(prompt)
    for opening in ("the content of image is", "according to the instruction:"):
        text = text.split(opening, 1)[-1]
    return text.strip()


def _shown_size(result: Result) -> tuple[int, int]:
    """Width and height of all images of a sample on the sheet, those of its output or input scaled to about one area,
    so that shapes of one size are shown so whatever the shape of their image."""
    with Image.open(Path(result.files.get("drawn") or result.files["input"])) as image:
        width, height = image.size
    scale = min(0.86 * CELL_PX / (width * height) ** 0.5, CELL_PX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Small images keep their pixels as they are, when the scale is a whole number of at least two."""
    whole = size[0] % image.width == 0 and size[1] % image.height == 0
    if image.size == size or (whole and size[0] > image.width):
        return image.resize(size, Image.Resampling.NEAREST)
    return image.resize(size, Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
