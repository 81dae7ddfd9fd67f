"""Writes an HTML page about a curated dataset that opens offline: counts, histograms, drift, images and captions.

Its size is bounded, whatever the dataset's: tables are cut, and images are omitted once they take too much room.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.audit.drift import DRIFT_TITLES, LITTLE, MUCH, Drift, Shift
from data_pipelines.audit.markup import (
    NAMES,
    POLICY,
    STYLE,
    ImageBudget,
    bar,
    chart,
    escaped,
    legend,
    shortened,
    two_bars,
    verdict_name,
)
from data_pipelines.audit.samples import SPECIAL_REASONS, Cluster, PageSamples, choose_samples
from data_pipelines.audit.summary import TITLES, AuditSummary, Cell, readable_bytes
from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.datasets.verdicts import VERDICTS

MAX_TABLE_ROWS = 40
MAX_FIGURE_CHARS = 90
MAX_CAPTION_CHARS = 300
SPECIAL_TITLES = {"quarantined": "Quarantine", "contaminated": "Evaluation contamination"}
SPECIAL_NOTES = {
    "quarantined": "Samples that crashed the process that read them.",
    "contaminated": "Samples that share an image with an evaluation set.",
}


def write_audit_page(folder: Path, target: Path, summary: AuditSummary, drift: Drift | None = None) -> None:
    """Write the page about the dataset in `folder`, whose counts are in `summary`, to `target`.

    Raises: DatasetError if a ledger or the thumbnails cannot be read.
    """
    samples = choose_samples(CuratedDataset(folder), drift.samples.shown if drift else ())
    budget = ImageBudget()
    sections = {
        "Reasons": ("Why records were not kept", _table(summary.tables["reason"], summary, "reason")),
        "Contents": ("Contents", _tables(summary)),
        "Histograms": ("Histograms", _charts(summary)),
    }
    if drift:
        sections["Drift"] = (f"Changes since {drift.then_name}", _drift(drift))
        sections["New"] = ("Newly added", _sheet(samples.added, samples, budget, "no kept sample is new"))
    sections["Images"] = ("A random choice of kept samples", _sheet(samples.random, samples, budget, "none"))
    sections["Copies"] = ("Copies, the largest groups first", _clusters(samples, budget))
    for reason in SPECIAL_REASONS:
        title = SPECIAL_TITLES[reason]
        sections[title.split()[-1].capitalize()] = (title, _special(reason, summary, samples, budget))
    sections["Verdicts"] = ("By verdict and reason", _groups(samples, budget))
    sections["Captions"] = ("Captions", _captions(samples))
    body = [_head(summary, sections)]
    body += [f'<h2 id="{key}">{escaped(title)}</h2>{content}' for key, (title, content) in sections.items()]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of {escaped(summary.name)}</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(body)}</body></html>\n"
    )
    target.write_text(page, encoding="utf-8")


def _head(summary: AuditSummary, sections: Mapping[str, object]) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{summary.whole.rows.get(verdict, 0):,}</b><i class="{verdict}"></i>{NAMES[verdict]}, '
        f"{summary.share(verdict):.1%}<br>{readable_bytes(summary.whole.bytes.get(verdict, 0))}</div>"
        for verdict in VERDICTS
    )
    orphans = f" {summary.orphans:,} files of the sources are named by no record." if summary.orphans else ""
    links = "".join(f'<a href="#{key}">{key}</a>' for key in sections)
    return (
        f"<h1>{escaped(summary.name)}</h1>"
        f'<p class="soft">{summary.whole.total:,} records in all.{orphans} Bytes are those of first images.</p>'
        f'<div class="tiles">{tiles}</div>{bar(summary.whole, summary.whole.total)}'
        f"{legend({verdict: NAMES[verdict] for verdict in VERDICTS})}<nav>{links}</nav>"
    )


def _table(cells: Mapping[str, Cell], summary: AuditSummary, name: str) -> str:
    """Rows, share and bytes of every value, with a bar on the scale of the largest."""
    full = max((cell.total for cell in cells.values()), default=1)
    rows = "".join(
        f'<tr><td><span class="outside">{escaped(value)}</span></td><td>{cell.total:,}</td>'
        f"<td>{cell.total / max(1, summary.whole.total):.1%}</td>"
        f'<td class="wide">{readable_bytes(sum(cell.bytes.values()))}</td><td class="graph">{bar(cell, full)}</td></tr>'
        for value, cell in list(cells.items())[:MAX_TABLE_ROWS]
    )
    rows += _more(len(cells) - MAX_TABLE_ROWS, 5)
    head = '<th></th><th>records</th><th>share</th><th class="wide">bytes</th><th class="graph"></th>'
    title = f"<caption>{TITLES[name]}</caption>" if name != "reason" else ""  # reasons have a heading of their own
    return f'<table class="counts">{title}<tr>{head}</tr>{rows}</table>' if cells else '<p class="soft">none</p>'


def _more(number: int, columns: int) -> str:
    return f'<tr><td class="soft" colspan="{columns}">and {number:,} more</td></tr>' if number > 0 else ""


def _tables(summary: AuditSummary) -> str:
    parts = [f"<div>{_table(cells, summary, name)}</div>" for name, cells in summary.tables.items() if name != "reason"]
    return f'<div class="tables">{"".join(parts)}</div>'


def _charts(summary: AuditSummary) -> str:
    charts = "".join(chart(name, histogram) for name, histogram in summary.histograms.items())
    note = '<p class="soft">Sizes and scores are those of first images; values outside count in the last bar.</p>'
    return f'{note}<div class="charts">{charts}</div>{legend({"keep": "kept", "then": "not kept"})}'


def _drift(drift: Drift) -> str:
    samples = drift.samples
    overview = (
        f"<p>{samples.added:,} samples were added and {samples.removed:,} removed; {samples.common:,} are in both. "
        f"Of the kept samples, {samples.kept_added:,} were added and {samples.kept_removed:,} removed. Records: "
        f"{drift.then_rows:,} then, {drift.now_rows:,} now.</p>"
        '<p class="soft">The number of each table is its population stability index: under '
        f"{LITTLE:g} it is negligible, over {MUCH:g} look into it. Verdicts and reasons are compared over all "
        "records, the other tables over the kept ones.</p>"
    )
    return overview + "".join(_shift(shift) for shift in drift.shifts) + legend({"then": "then", "keep": "now"})


def _shift(shift: Shift) -> str:
    values = shift.by_change()
    full = max((max(shift.shares(value)) for value in values), default=1.0)
    rows = "".join(_shift_row(shift, value, full) for value in values[:MAX_TABLE_ROWS])
    rows += _more(len(values) - MAX_TABLE_ROWS, 4)
    head = '<tr><th></th><th>then</th><th>now</th><th class="graph"></th></tr>'
    opened = " open" if shift.index >= LITTLE else ""
    return (
        f"<details{opened}><summary>{DRIFT_TITLES[shift.name]}<span>{shift.index:.4f}</span></summary>"
        f'<table class="counts">{head}{rows}</table></details>'
    )


def _shift_row(shift: Shift, value: str, full: float) -> str:
    then, now = shift.shares(value)
    return (
        f'<tr><td><span class="outside">{escaped(value)}</span></td><td>{then:.2%}</td><td>{now:.2%}</td>'
        f'<td class="graph">{two_bars(then, now, full)}</td></tr>'
    )


def _sheet(rows: Sequence[Mapping[str, Any]], samples: PageSamples, budget: ImageBudget, if_empty: str) -> str:
    """Kept samples of a ledger; of those without an image, their texts."""
    figures = "".join(
        _figure(row, budget.embed(samples.images.get((row["sample_id"], 0))))
        for row in rows
        if (row["sample_id"], 0) in samples.images or row["task"] != "text"
    )
    text_rows = [row for row in rows if row["task"] == "text"]
    texts = _texts(text_rows, lambda row: "text only") if text_rows else ""
    sheet = f'<div class="images">{figures}</div>' if figures else ""
    return sheet + texts or f'<p class="soft">{if_empty}</p>'


def _figure(row: Mapping[str, Any], images: str, *, attributes: str = "") -> str:
    return (
        f'<figure{attributes}><div class="frames">{images}</div><figcaption><span class="outside">'
        f"{shortened(row['caption'], MAX_FIGURE_CHARS)}</span><br><code>{escaped(row['sample_id'][:12])}</code>"
        "</figcaption></figure>"
    )


def _clusters(samples: PageSamples, budget: ImageBudget) -> str:
    if not samples.clusters:
        return '<p class="soft">none</p>'
    note = "The kept image comes first, then some of its copies. Sizes count the whole ledger."
    return f'<p class="soft">{note}</p>' + "".join(_cluster(cluster, samples, budget) for cluster in samples.clusters)


def _cluster(cluster: Cluster, samples: PageSamples, budget: ImageBudget) -> str:
    slot = cluster.copies[0]["slot"] if cluster.copies else 0
    kept = {"sample_id": cluster.kept_id, "caption": "kept"}
    figures = _figure(kept, budget.embed(samples.images.get((cluster.kept_id, slot))), attributes=' class="first"')
    for row in cluster.copies:
        captioned = {**row, "caption": f"{verdict_name(row['verdict'])}, {row['reason']}"}
        figures += _figure(captioned, budget.embed(row["jpeg"]))
    copies = "1 copy" if cluster.num_copies == 1 else f"{cluster.num_copies:,} copies"
    hidden = cluster.num_copies - len(cluster.copies)
    more = f"; {hidden:,} not shown" if hidden > 0 else ""
    return f'<div class="cluster"><p class="soft">{copies}{more}</p><div class="images">{figures}</div></div>'


def _special(reason: str, summary: AuditSummary, samples: PageSamples, budget: ImageBudget) -> str:
    """Samples of a reason that has a section of its own, each with its source."""
    cell = summary.tables["reason"].get(reason)
    rows = samples.special.get(reason, ())
    if cell is None or not rows:
        return '<p class="soft">none</p>'
    thumbnails = [row for (_, why), group in samples.groups.items() if why == reason for row in group]
    figures = "".join(_figure(row, budget.embed(row["jpeg"])) for row in thumbnails if row["slot"] == 0)
    note = f"<p>{SPECIAL_NOTES[reason]} {cell.total:,} in all, {len(rows)} shown.</p>"
    sheet = f'<div class="images">{figures}</div>' if figures else ""
    return note + sheet + _texts(rows, lambda row: f"{row['source_file']}, row {row['source_row']}: {row['detail']}")


def _groups(samples: PageSamples, budget: ImageBudget) -> str:
    """Thumbnails of every verdict and reason; a copy is shown next to the kept image."""
    parts = ['<p class="soft">A fixed choice from every shard; copies are shown next to the kept image.</p>']
    for (verdict, reason), rows in samples.groups.items():
        if reason in SPECIAL_REASONS:
            continue
        figures = "".join(_group_figure(row, samples, budget) for row in rows)
        reason_html = f" <span>{escaped(reason)}</span>" if reason else ""
        parts.append(f'<h3>{escaped(verdict_name(verdict))}{reason_html}</h3><div class="images">{figures}</div>')
    return "".join(parts)


def _group_figure(row: Mapping[str, Any], samples: PageSamples, budget: ImageBudget) -> str:
    if not row["duplicate_of"]:
        return _figure(row, budget.embed(row["jpeg"]))
    original = samples.images.get((row["duplicate_of"], row["slot"]))
    return _figure(row, budget.embed(original) + budget.embed(row["jpeg"]), attributes=' class="pair"')


def _captions(samples: PageSamples) -> str:
    parts = ['<p class="soft">A fixed random choice; ledgers keep the first 500 characters.</p>']
    for title, rows in samples.captions.items():
        if rows:
            parts.append(f"<h3>{title}</h3>" + _texts(rows, _reason_or_task))
    return "".join(parts)


def _reason_or_task(row: Mapping[str, Any]) -> str:
    return str(row["reason"] or row["task"] or "")


def _texts(rows: Sequence[Mapping[str, Any]], note: Callable[[Mapping[str, Any]], str]) -> str:
    """A table of the rows' captions with a note for each."""
    cells = "".join(
        f'<tr><td><span class="outside">{shortened(row["caption"] or row["sample_id"][:12], MAX_CAPTION_CHARS)}</span>'
        f'</td><td><span class="outside">{shortened(note(row), MAX_CAPTION_CHARS)}</span></td></tr>'
        for row in rows
    )
    return f'<table class="words">{cells}</table>'
