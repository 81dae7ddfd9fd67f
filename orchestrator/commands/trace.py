"""`illume trace`: follows samples and images through a run."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    plugin_option,
    run_option,
    stage_kinds,
)
from orchestrator.commands.shared.questions import question_options
from orchestrator.commands.shared.targets import find_run

if TYPE_CHECKING:
    from data_pipelines.provenance.questions import Questions
    from data_pipelines.provenance.sample_search import Match
    from stages.provenance.trace import Trace

SHOWN_STEPS = 12
UNKNOWN_BECAUSE = "because their data were deleted, older code made them, or their kind does not say"
SHOWN_ROWS = 10  # of one stage; JSON has all


@click.command(
    "trace",
    epilog=examples(
        "trace picture.jpg", "trace list.csv --run quickstart", "trace --source-url '*://example.com/*' --json"
    ),
)
@question_options
@run_option
@location_options
@plugin_option
@json_option
def trace_command(questions: "Questions", run: str | None, locations: Locations, as_json: bool) -> None:
    """Follow samples through a run: datasets, token files, training steps, checkpoints, models.

    WHAT is an image file, a sample id, the SHA-256 of an image, the id that a source gave, or a list of these: a text
    file with one per line, or a .csv, .parquet or .jsonl file with a column sample_id, sha256 or url; or the folder
    that a spike of a training left, which is shown too.
    """
    from stages.provenance.trace import trace_run
    from stages.training.watching.spike_report import has_spike_report, read_spike_report, spike_text

    folders = filter(has_spike_report, map(Path, click.get_current_context().params["what"]))
    spikes = [read_spike_report(folder) for folder in folders]
    for spike in () if as_json else spikes:  # what a spike left says something without a run, too
        click.echo(f"{spike_text(spike)}\n")
    with open_workspace(locations) as workspace:
        found = find_run(workspace.database, run)
        plan = workspace.plan_of(found.run_id, stage_kinds(), allow_changed_kinds=True)
        trace = trace_run(workspace, plan, questions)
    if as_json:
        echo_json("trace", trace.to_json())
        return
    click.echo(f"run {found.run_id} of {plan.recipe}")
    click.echo(trace_text(trace))


def trace_text(trace: "Trace") -> str:
    """The trace as text for a terminal: what was found, then where it was used, in the order of the recipe."""
    parts = [_answered_lines(trace)]
    parts += [[f"{stage}: {text}" for stage, text in trace.removed.items()]] if trace.removed else []
    parts += [_dataset_lines(stage, matches) for stage, matches in trace.matches.items()]
    for stage, rows in trace.tokens.items():
        lines = [f"  {row.sample_id[:16]}  image {row.slot}: {row.file}, row {row.row}" for row in rows]
        parts.append([f"{stage}: {_count(len(rows), 'row')} of codes", *_shortened(lines)])
    if any(trace.matches.values()):
        parts += _training_parts(trace)
    parts.append(_model_lines(trace))
    return "\n\n".join("\n".join(lines) for lines in parts)


def _answered_lines(trace: "Trace") -> list[str]:
    missing = trace.unanswered
    lines = [f"{trace.asked - len(missing):,} of {_count(trace.asked, 'question')} answered"]
    if missing:
        texts = [f"  {text}{_taken_down_text(trace, text)}" for text in missing]
        lines += ["not found:", *_shortened(texts)]
    return lines


def _taken_down_text(trace: "Trace", question: str) -> str:
    return f", {trace.taken_down[question]}" if question in trace.taken_down else ""


def _dataset_lines(stage: str, matches: Sequence["Match"]) -> list[str]:
    kept = sum(match.verdict == "keep" for match in matches)
    lines = []
    for match in matches:
        location = f"shard {match.shard}, row {match.row}" if match.shard else "not kept"
        verdict = match.verdict + (f" ({match.reason})" if match.reason else "")
        how = match.found_by if match.found_by.startswith(("looks", "a copy")) else f"by {match.found_by}"
        lines.append(f"  {match.sample_id[:16]}  {verdict}, {location}; {how}")
        lines.append(f"  {'':16}  from {match.source_file}, row {match.source_row}")
    counts = f", {kept:,} kept" if matches else ""
    return [f"{stage}: {_count(len(matches), 'row')}{counts}", *_shortened(lines, 2)]


def _training_parts(trace: "Trace") -> Iterator[list[str]]:
    exposures, checkpoints = defaultdict(list), defaultdict(list)
    for exposure in trace.exposures:
        exposures[exposure.stage].append(exposure)
    for checkpoint in trace.checkpoints:
        checkpoints[checkpoint.stage].append(checkpoint)
    for stage, num_steps in trace.steps.items():
        here = exposures[stage]
        distinct = {step for exposure in here for step in exposure.steps}
        if distinct:
            lines = [
                f"{stage}: saw {_count(len(here), 'sample')} in {len(distinct):,} of {num_steps:,} steps, "
                f"first in step {min(distinct):,}, last in step {max(distinct):,}"
            ]
        else:
            what = "saw none itself, but comes from a model that did" if stage in trace.newest_clean else "saw none"
            lines = [f"{stage}: {what}"]
        lines += _shortened([f"  {exposure.sample_id[:16]}  steps {_steps(exposure.steps)}" for exposure in here])
        for saw, description in ((True, "saw it"), (False, "did not see it")):
            steps = [checkpoint.step for checkpoint in checkpoints[stage] if checkpoint.saw == saw]
            lines += [f"  checkpoints that {description}: {_steps(steps)}"] if steps else []
        if stage in trace.newest_clean:
            newest = trace.newest_clean[stage]
            lines.append(
                "  no clean checkpoint is kept" if newest is None else f"  newest clean checkpoint: step {newest:,}"
            )
        yield lines


def _model_lines(trace: "Trace") -> list[str]:
    return [
        f"models that saw it: {', '.join(trace.saw) or 'none'}",
        f"models that did not see it: {', '.join(trace.clean) or 'none'}",
        *([f"unknown, {UNKNOWN_BECAUSE}: {', '.join(trace.unknown)}"] if trace.unknown else []),
        *(f"  {stage}: {problem}" for stage, problem in (*trace.recorded.items(), *trace.problems.items())),
    ]


def _steps(steps: Sequence[int]) -> str:
    more = f", ... ({len(steps):,} in all)" if len(steps) > SHOWN_STEPS else ""
    return ", ".join(map(str, steps[:SHOWN_STEPS])) + more


def _shortened(lines: list[str], lines_per_entry: int = 1) -> list[str]:
    left = len(lines) // lines_per_entry - SHOWN_ROWS
    return [*lines[: SHOWN_ROWS * lines_per_entry], f"  ... {left:,} more; --json has all"] if left > 0 else lines


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
