"""Elements of the audit page: escaped text, bars, histograms, images; and its style.

All text comes from outside and is escaped; images are small JPEGs that we encode, embedded in the page. The page loads
and runs nothing: its own policy forbids it.
"""

import base64
import html
from collections.abc import Mapping

from data_pipelines.audit.histograms import Histogram
from data_pipelines.audit.summary import Cell, readable_bytes
from data_pipelines.datasets.verdicts import VERDICTS

MAX_IMAGE_BYTES = 3 << 20  # of all JPEGs of a page; base64 adds a third
NAMES = {"keep": "kept", "drop": "dropped", "duplicate": "duplicate", "near_duplicate": "near-duplicate",
         "mirrored": "mirrored"}  # fmt: skip
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
HISTOGRAM_TITLES = {
    "width": "Width, pixels",
    "height": "Height, pixels",
    "aspect": "Width / height",
    "bytes": "Size of the first image's file",
    "caption": "Length of the text, characters",
    "entropy": "Entropy, bits",
    "sharpness": "Sharpness",
    "contrast": "Contrast, grey values",
}

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5c6670; --line: #dfe3e7; --card: #f6f7f9; --page: #ffffff;
  --keep: #2f8f5b; --drop: #c2483d; --duplicate: #b07a1e; --near_duplicate: #d3a84c; --mirrored: #7d6bc4;
  --then: #9aa5b1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #9aa5b1; --line: #2f363d; --card: #1d2228;
  --page: #14181c; --keep: #4fb37d; --drop: #e0695d; --duplicate: #d49a3c; --near_duplicate: #e6c478;
  --mirrored: #a394e4; --then: #66717c; } }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page);
  margin: 0 auto; padding: 28px 24px 64px; max-width: 1180px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 10px; }
h3 { font-size: 15px; margin: 22px 0 8px; overflow-wrap: anywhere; }
h3 span { font-weight: normal; color: var(--soft); }
p { margin: 0 0 12px; }
p.soft, td.soft, .soft { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 0; }
nav a { color: var(--soft); text-decoration: none; border-bottom: 1px solid var(--line); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.tile i, .legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 8px 0 0; color: var(--soft); }
.bar { display: flex; height: 12px; border-radius: 6px; overflow: hidden; background: var(--line); min-width: 60px; }
.bar.thin { height: 7px; border-radius: 4px; margin: 2px 0; background: none; }
.bar.thin i { border-radius: 4px; }
.keep { background: var(--keep); fill: var(--keep); }
.drop { background: var(--drop); fill: var(--drop); }
.duplicate { background: var(--duplicate); }
.near_duplicate { background: var(--near_duplicate); }
.mirrored { background: var(--mirrored); }
.then { background: var(--then); fill: var(--then); }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 28px 44px; }
.tables > *, .charts > * { min-width: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); text-align: right; font-weight: normal;
  white-space: nowrap; vertical-align: top; }
td:last-child, th:last-child { padding-right: 0; }
td:first-child, th:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
th { color: var(--soft); font-size: 13px; vertical-align: bottom; }
table.counts { table-layout: fixed; }
.counts td { vertical-align: middle; }
caption { text-align: left; font-weight: 600; font-size: 14px; padding-bottom: 2px; }
.counts th:nth-child(2), .counts th:nth-child(3) { width: 84px; }
.counts th.wide { width: 88px; }
.counts th.graph { width: 28%; }
td.graph { vertical-align: middle; }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.words td:last-child { color: var(--soft); width: 28%; }
.outside { unicode-bidi: isolate; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(240px, 46%), 1fr)); gap: 24px 28px; }
.chart svg { display: block; width: 100%; height: 84px; border-bottom: 1px solid var(--line); }
.chart .scale { display: flex; justify-content: space-between; color: var(--soft); font-size: 12px; }
.chart b { font-weight: normal; font-size: 14px; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(124px, 1fr)); gap: 14px 12px; }
figure { margin: 0; min-width: 0; }
figure.pair { grid-column: span 2; }
.frames { display: flex; gap: 4px; }
.frames > * { flex: 1 1 0; min-width: 0; }
img, .none { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; display: block; }
.none { display: flex; align-items: center; justify-content: center; text-align: center; color: var(--soft);
  font-size: 12px; padding: 8px; }
figcaption { font-size: 12px; line-height: 1.35; color: var(--soft); overflow-wrap: anywhere; margin-top: 4px; }
.cluster { border-top: 1px solid var(--line); padding: 12px 0 14px; }
.cluster .images { grid-template-columns: repeat(auto-fill, minmax(104px, 128px)); }
.cluster .first img { border: 2px solid var(--keep); }
details { border-top: 1px solid var(--line); padding: 8px 0; }
summary { cursor: pointer; }
summary span { float: right; color: var(--soft); font-variant-numeric: tabular-nums; }
details table { margin: 8px 0; }
code { font: 11px ui-monospace, monospace; }
@media (max-width: 600px) { body { padding: 18px 16px 48px; } .wide { display: none; }
  .counts th:nth-child(2) { width: 70px; }
  .counts th:nth-child(3) { width: 66px; }
  .counts th.graph { width: 18%; }
  .counts td { font-size: 14px; }
  .images { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
  .chart .scale span:nth-child(2) { display: none; } }
"""


class ImageBudget:
    """Embeds images in the page up to a total of `max_bytes`; after that a note takes their place."""

    def __init__(self, max_bytes: int = MAX_IMAGE_BYTES) -> None:
        self._left_bytes = max_bytes

    def embed(self, jpeg: bytes | None) -> str:
        if not jpeg:
            return '<span class="none">cannot be shown</span>'
        if len(jpeg) > self._left_bytes:
            return '<span class="none">omitted, the page is full</span>'
        self._left_bytes -= len(jpeg)
        return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


def escaped(value: object) -> str:
    """The value escaped for HTML; characters that could hide or reverse text become U+FFFD."""
    visible = "".join(character if character.isprintable() else "\ufffd" for character in str(value))
    return html.escape(visible, quote=True)


def shortened(value: object, max_chars: int) -> str:
    """The value escaped, with single spaces, cut at `max_chars`."""
    text = " ".join(str(value or "").split())
    return escaped(text if len(text) <= max_chars else text[: max_chars - 1] + "\u2026")


def verdict_name(verdict: str) -> str:
    return NAMES.get(verdict, verdict)


def bar(cell: Cell, full: int) -> str:
    """A bar of a cell's rows by verdict; `full` rows fill it."""
    parts = "".join(
        f'<i class="{verdict}" style="width:{100 * cell.rows[verdict] / max(1, full):.2f}%"></i>'
        for verdict in VERDICTS
        if cell.rows.get(verdict)
    )
    return f'<div class="bar">{parts}</div>'


def two_bars(then: float, now: float, full: float) -> str:
    """Two bars for the shares, one below the other; `full` fills the width."""
    widths = [100 * share / max(full, 1e-12) for share in (then, now)]
    return "".join(
        f'<div class="bar thin"><i class="{name}" style="width:{width:.2f}%"></i></div>'
        for name, width in zip(("then", "keep"), widths, strict=True)
    )


def chart(name: str, histogram: Histogram) -> str:
    """A bar chart of the bins from the first to the last that is not empty: kept rows below, the others above."""
    totals = histogram.kept + histogram.not_kept
    used = totals.nonzero()[0]
    if not len(used):
        return ""
    first, last = int(used[0]), int(used[-1]) + 1
    width, full = 1000 / (last - first), int(totals.max())
    parts = []
    for index in range(first, last):
        kept, all_rows = 100 * histogram.kept[index] / full, 100 * totals[index] / full
        left, bar_width = (index - first) * width, max(1.0, width * 0.92)
        low, high = _value(name, histogram.edges[index]), _value(name, histogram.edges[index + 1])
        if totals[index]:
            parts.append(
                f'<g><title>{low} to {high}: {totals[index]:,}</title><rect class="then" x="{left:.1f}" '
                f'y="{100 - all_rows:.1f}" width="{bar_width:.1f}" height="{all_rows - kept:.1f}"/>'
                f'<rect class="keep" x="{left:.1f}" y="{100 - kept:.1f}" width="{bar_width:.1f}" '
                f'height="{kept:.1f}"/></g>'
            )
    low, high = _value(name, histogram.edges[first]), _value(name, histogram.edges[last])
    title = HISTOGRAM_TITLES[name]
    return (
        f'<div class="chart"><b>{title}</b><svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}">{"".join(parts)}</svg><div class="scale"><span>{low}</span>'
        f"<span>half below {_value(name, histogram.median())}</span><span>{high}</span></div></div>"
    )


def _value(name: str, edge: float) -> str:
    if name == "bytes":
        return readable_bytes(int(edge))
    return f"{edge:,.0f}" if edge >= 100 else f"{edge:.3g}"


def legend(names: Mapping[str, str]) -> str:
    """A legend of the style's classes. `names`: the meaning of each class."""
    entries = "".join(f'<span><i class="{name}"></i>{meaning}</span>' for name, meaning in names.items())
    return f'<div class="legend">{entries}</div>'
