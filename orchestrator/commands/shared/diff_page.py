"""A comparison of two runs as one self-contained HTML page. All text in it is escaped."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from orchestrator.commands.shared.diff_text import (
    difference_text,
    files_text,
    identity_text,
    metric_text,
    nondeterminism_lines,
    run_text,
    spent_text,
    time_of,
    unmatched_lines,
)
from orchestrator.reports.run_diff import Change, RunDiff, StageDiff, is_same_metric
from orchestrator.reports.run_outputs import RunOutputs

MORE_STYLE = """
td.left, th.left { text-align: left; white-space: normal; overflow-wrap: break-word; }
code { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
p.warn { border-left: 4px solid var(--drop); padding: 2px 10px; margin: 8px 0; }
details { margin: 6px 0; }
summary { cursor: pointer; }
"""


def write_diff_page(diff: RunDiff, datasets: Mapping[str, str], target: Path, *, style: str) -> None:
    """Write the page. `datasets`: HTML about the data of some stages; `style`: the CSS of its classes."""
    body = [
        "<h1>Two runs compared</h1>",
        *(f'<p class="soft">{letter}: {_text(run_text(side))}</p>' for letter, side in _sides(diff)),
        "<h2>Recipe</h2>",
        *(f"<p>{_text(line)}</p>" for line in unmatched_lines(diff)),
        _changes(diff.identity, "no value that decides the outputs differs"),
        *(["<h3>Not part of any identity</h3>", _changes(diff.execution, "")] if diff.execution else []),
        "<h2>Stages</h2>",
        *(f'<p class="warn">{_text(line)}</p>' for stage in diff.stages for line in nondeterminism_lines(stage)),
        _stages(diff),
        "<h2>Code and environment</h2>",
        _made_with(diff),
        *(f"<h2>Data of {_text(name)}</h2>{part}" for name, part in datasets.items()),
        "<h2>Metrics</h2>",
        "".join(_metrics(stage) for stage in diff.stages) or '<p class="soft">no metric differs</p>',
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(diff.before.run.run_id)} and {_text(diff.after.run.run_id)}</title>"
        f"<style>{style}{MORE_STYLE}</style></head>\n<body>{''.join(body)}</body></html>\n"
    )
    target.write_text(page, encoding="utf-8")


def _text(value: object) -> str:
    """Escaped; unprintable characters, which could hide or reverse text, become U+FFFD."""
    shown = "".join(character if character.isprintable() else "\ufffd" for character in str(value))
    return html.escape(shown, quote=True)


def _sides(diff: RunDiff) -> Iterable[tuple[str, RunOutputs]]:
    return (("A", diff.before), ("B", diff.after))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A table of plain text cells; the first `left` columns are left-aligned, the others are numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [f'<{tag} class="left">' if column < left else f"<{tag}>" for column in range(len(cells))]
        return "".join(f"{kind}{_text(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    lines = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f'<div class="scroll"><table><tr>{row(head, "th")}</tr>{lines}</table></div>'


def _changes(changes: Sequence[Change], none: str) -> str:
    rows = [(change.place, change.before, change.after) for change in changes]
    return _table(("setting", "A", "B"), rows, left=3) if rows else f'<p class="soft">{_text(none)}</p>'


def _stages(diff: RunDiff) -> str:
    rows = [
        (stage.id, _state_text(stage), "; ".join(stage.reasons), time_of(stage.before), time_of(stage.after))
        for stage in diff.stages
    ]
    rows.append(("all", "", "", spent_text(diff.before), spent_text(diff.after)))
    return _table(("stage", "identity", "why it differs", "A took", "B took"), rows, left=5)


def _state_text(stage: StageDiff) -> str:
    if stage.state == "same":
        return "made twice, with two results" if stage.is_nondeterministic else "the same"
    same_files = ", but the same files" if stage.outputs == "equal" else ""
    return f"{identity_text(stage)}{' (first that differs)' if stage.is_first else ''}{same_files}"


def _made_with(diff: RunDiff) -> str:
    code = [(stage.id, files_text(stage.code)) for stage in diff.stages if stage.code]
    parts = [_table(("stage", "source files that differ"), code, left=2)] if code else []
    made_with = diff.environment.items()
    rows = [(change.place, change.before, change.after, ", ".join(ids)) for change, ids in made_with]
    parts += [_table(("environment", "A", "B", "stages"), rows, left=4)] if rows else []
    return "".join(parts) or '<p class="soft">nothing differs that both runs recorded</p>'


def _metrics(stage: StageDiff) -> str:
    """The metrics that differ as a table; the others are folded."""
    differing, equal = [], []
    for name, (before, after) in sorted(stage.metrics().items()):
        cells = (name, metric_text(before), metric_text(after))
        if is_same_metric(before, after):
            equal.append(cells)
        else:
            differing.append((*cells, difference_text(before, after)))
    if not differing or not (stage.before and stage.before.output and stage.after and stage.after.output):
        return ""
    more = _table(("metric", "A", "B"), equal, left=1)
    folded = f"<details><summary>{len(equal):,} that do not differ</summary>{more}</details>" if equal else ""
    return f"<h3>{_text(stage.id)}</h3>{_table(('metric', 'A', 'B', 'difference'), differing, left=1)}{folded}"
