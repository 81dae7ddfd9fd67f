"""`illume trace`: where samples and pictures went."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands.options import Places, json_option, open_workspace, place_options
from orchestrator.commands.targets import find_run
from orchestrator.errors import RecipeError

if TYPE_CHECKING:
    from data_pipelines.trace import Questions
    from stages.trace import Trace

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
NEAR_BITS = 10  # of 64: re-encoded, resized and slightly cropped pictures
SHOWN_STEPS = 12


@click.command("trace")
@click.argument("what", nargs=-1, required=True)
@click.option("--run", "run", help="A run, or a recipe's name for its newest run. Default: the newest run.")
@click.option("--near", default=NEAR_BITS, show_default=True, help="Bits of 64 in which look-alikes may differ.")
@place_options
@json_option
def trace_command(what: tuple[str, ...], run: str | None, near: int, places: Places, as_json: bool) -> None:
    """Follow samples through a run: datasets, token files, training steps, models.

    WHAT is a picture file, a sample id, the SHA-256 of a picture, the id that a source gave, or a text file with one of
    these in each line.
    """
    from stages import STAGE_KINDS
    from stages.trace import trace_run

    questions = _questions(what, near)
    with open_workspace(places) as workspace:
        plan = workspace.plan_of(find_run(workspace.database, run).run_id, STAGE_KINDS)
        trace = trace_run(workspace, plan, questions)
    click.echo(json.dumps(trace.to_json(), indent=1) if as_json else trace_text(trace))


def _questions(what: tuple[str, ...], near: int) -> "Questions":
    from data_pipelines.trace import Questions

    questions = Questions(near=near)
    for text in what:
        path = Path(text)
        try:
            if path.suffix.lower() in PICTURE_ENDINGS and path.is_file():
                questions.add_picture(path)
            elif path.is_file():
                for line in filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())):
                    questions.add(line)
            else:
                questions.add(text)
        except (OSError, ValueError) as error:
            raise RecipeError(f"{text}: {error}; give a picture, an id, a SHA-256, or a text file of those") from error
    return questions


def trace_text(trace: "Trace") -> str:
    """For a terminal."""
    lines = []
    for stage, matches in trace.matches.items():
        lines.append(f"{stage}: {len(matches)} rows")
        for match in matches:
            verdict = match.verdict + (f" ({match.reason})" if match.reason else "")
            place = f"{match.source_file}, row {match.source_row}"
            lines.append(f"  {match.sample_id[:16]}  {verdict}, shard {match.shard}, from {place}; by {match.found_by}")
    for stage, rows in trace.tokens.items():
        lines.append(f"{stage}: {len(rows)} rows of codes")
        lines += [f"  {row.sample_id[:16]}  picture {row.slot}: {row.file}, row {row.row}" for row in rows]
    for exposure in trace.exposures:
        steps = ", ".join(map(str, exposure.steps[:SHOWN_STEPS])) + (
            ", ..." if len(exposure.steps) > SHOWN_STEPS else ""
        )
        lines.append(f"{exposure.stage}: {exposure.sample_id[:16]} in {len(exposure.steps)} steps: {steps}")
    lines.append(f"models that have seen it: {', '.join(trace.saw) or 'none'}")
    lines.append(f"models that have not: {', '.join(trace.clean) or 'none'}")
    return "\n".join(lines)
