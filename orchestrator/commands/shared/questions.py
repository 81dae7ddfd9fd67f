"""Questions about samples on the command line: images, ids, digests, lists of them, web addresses."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands.shared.options import Command
from orchestrator.errors import RecipeError

if TYPE_CHECKING:
    from data_pipelines.provenance.questions import Questions

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
NEAR_BITS = 10  # of 64: re-encoded, resized and slightly cropped images
MAX_NEAR_BITS = 24  # above it unrelated images count as copies


def question_options(command: Command) -> Command:
    """Adds the argument WHAT, `--source-url` and `--near`; passed on as `questions`."""

    @functools.wraps(command)
    def with_questions(*, what: tuple[str, ...], urls: tuple[str, ...], near: int, **rest: Any) -> Any:
        return command(questions=make_questions(what, urls, near), **rest)

    decorators = [
        click.argument("what", nargs=-1),
        click.option(
            "--source-url",
            "urls",
            multiple=True,
            metavar="PATTERN",
            help="Address or source of samples, for example '*://example.com/*'. Can be repeated.",
        ),
        click.option(
            "--near",
            type=click.IntRange(0, MAX_NEAR_BITS),
            default=NEAR_BITS,
            show_default=True,
            help="Bits of 64 in which near-duplicates may differ; 0: exact copies only.",
        ),
    ]
    decorated: Command = with_questions
    for decorator in reversed(decorators):
        decorated = decorator(decorated)
    return decorated


def make_questions(what: tuple[str, ...], urls: tuple[str, ...], near: int) -> "Questions":
    from data_pipelines.provenance.questions import Questions
    from stages.training.watching.spike_report import SPIKE_REPORT, has_spike_report, read_spike_report

    if not what and not urls:
        raise RecipeError("nothing to search for; give an image, an id, a SHA-256, a list of those, or --source-url")
    questions = Questions(near=near)
    for pattern in urls:
        questions.add_url(pattern)
    for text in what:
        path = Path(text)
        try:
            if has_spike_report(path):
                questions.add_all(read_spike_report(path).sample_ids)
            elif path.is_dir():
                raise ValueError(f"a folder without {SPIKE_REPORT}, which a spike of a training leaves")
            elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                questions.add_image(path)
            elif path.is_file():
                questions.add_file(path)
            else:
                questions.add(text)
        except (OSError, ValueError) as error:
            raise RecipeError(f"{text}: {error}; give an image, an id, a SHA-256, or a list of those") from error
    return questions
