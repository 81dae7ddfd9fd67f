"""A comparison of two runs as one self-contained HTML page, made by `templates/run_diff.html`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.commands.shared.diff_text import (
    difference_text,
    files_text,
    identity_text,
    metric_text,
    nondeterminism_lines,
    run_text,
    spent_text,
    taken_down_lines,
    time_of,
    unmatched_lines,
)
from orchestrator.reports.run_diff import Change, RunDiff, StageDiff, is_same_metric

Row = tuple[str, ...]


def write_diff_page(diff: RunDiff, datasets: Mapping[str, str], target: Path) -> None:
    """Write the page. `datasets`: markup about the data of some stages, by stage id."""
    from data_pipelines.audit.markup import page_environment  # late: loads numpy and pyarrow

    page = page_environment(__package__).get_template("run_diff.html")
    text = page.render(
        runs=(diff.before.run, diff.after.run),
        heads=(run_text(diff.before), run_text(diff.after)),
        unmatched=unmatched_lines(diff),
        identity=_change_rows(diff.identity),
        execution=_change_rows(diff.execution),
        warnings=[
            *taken_down_lines(diff),
            *(line for stage in diff.stages for line in nondeterminism_lines(stage)),
        ],
        stages=_stage_rows(diff),
        code=[(stage.id, files_text(stage.code)) for stage in diff.stages if stage.code],
        environment=[
            (change.place, change.before, change.after, ", ".join(ids)) for change, ids in diff.environment.items()
        ],
        datasets=datasets,
        metrics=list(_metric_tables(diff)),
    )
    target.write_text(text, encoding="utf-8")


def _change_rows(changes: Sequence[Change]) -> list[Row]:
    return [(change.place, change.before, change.after) for change in changes]


def _stage_rows(diff: RunDiff) -> list[Row]:
    rows = [
        (stage.id, _state_text(stage), "; ".join(stage.reasons), time_of(stage.before), time_of(stage.after))
        for stage in diff.stages
    ]
    return [*rows, ("all", "", "", spent_text(diff.before), spent_text(diff.after))]


def _state_text(stage: StageDiff) -> str:
    if stage.state == "same":
        return "made twice, with two results" if stage.is_nondeterministic else "the same"
    same_files = ", but the same files" if stage.outputs == "equal" else ""
    return f"{identity_text(stage)}{' (first that differs)' if stage.is_first else ''}{same_files}"


def _metric_tables(diff: RunDiff) -> Iterator[tuple[str, Sequence[Row], Sequence[Row]]]:
    """(stage id, metrics that differ, the others) of each stage with outputs on both sides that differ in a metric."""
    for stage in diff.stages:
        if not (stage.before and stage.before.output and stage.after and stage.after.output):
            continue
        differing, equal = [], []
        for name, (before, after) in sorted(stage.metrics().items()):
            cells = (name, metric_text(before), metric_text(after))
            if is_same_metric(before, after):
                equal.append(cells)
            else:
                differing.append((*cells, difference_text(before, after)))
        if differing:
            yield stage.id, differing, equal
