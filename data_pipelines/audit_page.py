"""One HTML page about a curated dataset that opens anywhere, offline: counts, bars and pictures of every verdict.

All text comes from outside and is escaped; pictures are small JPEGs made by the curation, inside the page.
"""

import base64
import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.audit import TITLES, AuditSummary, Cell, readable_bytes
from data_pipelines.curation_config import VERDICTS, CurationConfig
from data_pipelines.dataset_reader import CuratedDataset, DatasetError
from data_pipelines.images import thumbnail
from data_pipelines.samples import SampleError

PICTURES_PER_GROUP = 12
MAX_PAGE_PICTURES = 400
MAX_TABLE_ROWS = 40
MAX_CAPTION_CHARS = 140
THUMBNAIL_SIDE = 128
NAMES = {"keep": "kept", "drop": "dropped", "duplicate": "duplicate", "near_duplicate": "near-duplicate",
         "mirrored": "mirrored"}  # fmt: skip

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5c6670; --line: #d9dee3; --card: #f6f7f9; --page: #ffffff;
  --keep: #2f8f5b; --drop: #c2483d; --duplicate: #b07a1e; --near_duplicate: #d3a84c; --mirrored: #7d6bc4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #9aa5b1; --line: #343b43; --card: #1d2228;
  --page: #14181c; --keep: #4fb37d; --drop: #e0695d; --duplicate: #d49a3c; --near_duplicate: #e6c478;
  --mirrored: #a394e4; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page);
  margin: 0 auto; padding: 24px; max-width: 1180px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 20px 0 8px; }
p.soft, td.soft { color: var(--soft); margin: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.tile b { display: block; font-size: 24px; }
.tile i, .legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }
.legend i { margin-left: 14px; }
.legend i:first-child { margin-left: 0; }
p.legend { margin-top: 6px; }
.bar { display: flex; height: 12px; border-radius: 6px; overflow: hidden; background: var(--line); min-width: 120px; }
.keep { background: var(--keep); }
.drop { background: var(--drop); }
.duplicate { background: var(--duplicate); }
.near_duplicate { background: var(--near_duplicate); }
.mirrored { background: var(--mirrored); }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 24px 40px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: 4px 8px 4px 0; border-bottom: 1px solid var(--line); text-align: right; font-weight: normal;
  white-space: nowrap; }
td:first-child, th:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
th { color: var(--soft); font-size: 13px; }
td.graph { width: 30%; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; }
figure { margin: 0; width: 136px; }
figure.pair { width: 280px; }
figure img, .none { width: 132px; height: 132px; object-fit: contain; background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; margin-right: 4px; vertical-align: top; }
.none { display: inline-flex; align-items: center; justify-content: center; color: var(--soft); font-size: 12px; }
figcaption { font-size: 12px; color: var(--soft); overflow-wrap: anywhere; }
"""


def write_audit_page(folder: Path, target: Path, summary: AuditSummary) -> None:
    """Write the page about the dataset in `folder`, which `summary` counts, to `target`.

    Raises: DatasetError if the thumbnails cannot be read.
    """
    dataset = CuratedDataset(folder)
    groups = _groups(dataset)
    originals = _originals(dataset, groups)
    body = [
        _head(summary),
        "<h2>Why records were left out</h2>",
        _table(summary.tables["reason"], summary, "reason"),
        "<h2>What is in it</h2>",
        _tables(summary),
        "<h2>Pictures</h2>",
        '<p class="soft">A fixed random choice from every shard; copies stand beside the picture that was kept.</p>',
        *(_group(group, rows, originals) for group, rows in groups.items()),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of {_text(summary.name)}</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(body)}</body></html>\n"
    )
    target.write_text(page, encoding="utf-8")


def _text(value: object) -> str:
    """Escaped, and with characters that could hide or turn text made visible."""
    shown = "".join(character if character.isprintable() else "\ufffd" for character in str(value))
    return html.escape(shown, quote=True)


def _head(summary: AuditSummary) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{summary.whole.rows.get(verdict, 0):,}</b><i class="{verdict}"></i>{NAMES[verdict]}, '
        f"{summary.share(verdict):.1%}<br>{readable_bytes(summary.whole.bytes.get(verdict, 0))}</div>"
        for verdict in VERDICTS
    )
    legend = "".join(f'<i class="{verdict}"></i>{NAMES[verdict]}' for verdict in VERDICTS)
    return (
        f"<h1>{_text(summary.name)}</h1>"
        f'<p class="soft">{summary.whole.total:,} records came in. Bytes are those of first pictures.</p>'
        f'<div class="tiles">{tiles}</div>{_bar(summary.whole, summary.whole.total)}<p class="legend soft">{legend}</p>'
    )


def _bar(cell: Cell, full: int) -> str:
    parts = "".join(
        f'<i class="{verdict}" style="width:{100 * cell.rows[verdict] / max(1, full):.2f}%"></i>'
        for verdict in VERDICTS
        if cell.rows.get(verdict)
    )
    return f'<div class="bar">{parts}</div>'


def _table(cells: Mapping[str, Cell], summary: AuditSummary, name: str) -> str:
    """Rows, share and bytes of every value, with a bar on the scale of the largest."""
    full = max((cell.total for cell in cells.values()), default=1)
    rows = "".join(
        f"<tr><td>{_text(value)}</td><td>{cell.total:,}</td><td>{cell.total / max(1, summary.whole.total):.1%}</td>"
        f'<td>{readable_bytes(sum(cell.bytes.values()))}</td><td class="graph">{_bar(cell, full)}</td></tr>'
        for value, cell in list(cells.items())[:MAX_TABLE_ROWS]
    )
    more = len(cells) - MAX_TABLE_ROWS
    if more > 0:
        rows += f'<tr><td class="soft">and {more:,} more</td><td></td><td></td><td></td><td></td></tr>'
    head = f"<tr><th>{_text(TITLES[name])}</th><th>records</th><th>share</th><th>bytes</th><th></th></tr>"
    return f"<table>{head}{rows}</table>" if cells else '<p class="soft">none</p>'


def _tables(summary: AuditSummary) -> str:
    parts = [f"<div>{_table(cells, summary, name)}</div>" for name, cells in summary.tables.items() if name != "reason"]
    return f'<div class="tables">{"".join(parts)}</div>'


def _groups(dataset: CuratedDataset) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Thumbnails by (verdict, reason), kept ones first, evenly from all shards up to the page's limits."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for shard in dataset.shards:
        path = dataset.folder / "thumbnails" / f"{shard}.parquet"
        try:
            rows = pq.read_table(path, use_threads=False).to_pylist() if path.is_file() else []
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: thumbnails cannot be read ({error}); curate again") from error
        for place, row in enumerate(rows):
            found.setdefault((row["verdict"], row["reason"] or ""), []).append({**row, "place": place})
    total = 0
    chosen = {}
    for group in sorted(found, key=lambda key: (VERDICTS.index(key[0]), key[1])):
        rows = sorted(found[group], key=lambda row: (row["slot"], row["place"], row["sample_id"]))
        chosen[group] = rows[: min(PICTURES_PER_GROUP, max(0, MAX_PAGE_PICTURES - total))]
        total += len(chosen[group])
    return chosen


def _originals(
    dataset: CuratedDataset, groups: Mapping[tuple[str, str], list[dict[str, Any]]]
) -> dict[tuple[str, int], bytes]:
    """Thumbnails, by sample id and slot, of the kept samples that the shown copies repeat."""
    wanted = {(row["duplicate_of"], row["slot"]) for rows in groups.values() for row in rows if row["duplicate_of"]}
    ids = pa.array(sorted({sample_id for sample_id, _ in wanted}), pa.string())
    config = CurationConfig(anchors=((1, 1),))  # only its limits are used
    found: dict[tuple[str, int], bytes] = {}
    for shard in dataset.shards if len(ids) else ():
        columns = ["sample_id", "verdict", "offset", "span_bytes"]
        table = pq.read_table(dataset.folder / "ledger" / f"{shard}.parquet", columns=columns, use_threads=False)
        chosen = table.filter(pc.and_(pc.is_in(table["sample_id"], ids), pc.equal(table["verdict"], "keep")))
        for row in chosen.to_pylist():
            for slot, data in _pictures(dataset, shard, row):
                small = thumbnail(data, THUMBNAIL_SIDE, config) if (row["sample_id"], slot) in wanted else None
                if small is not None:
                    found[(row["sample_id"], slot)] = small
    return found


def _pictures(dataset: CuratedDataset, shard: str, row: Mapping[str, Any]) -> Iterator[tuple[int, bytes]]:
    try:
        stored = dataset.read(shard, row["offset"], row["span_bytes"])
        yield from ((slot, stored.image_bytes(slot)) for slot in range(len(stored.sample.images)))
    except SampleError:
        return  # the page shows a gap; `illume verify` says what is damaged


def _group(group: tuple[str, str], rows: list[dict[str, Any]], originals: Mapping[tuple[str, int], bytes]) -> str:
    verdict, reason = group
    title = NAMES[verdict] + (f": {reason}" if reason else "")
    figures = "".join(_figure(row, originals.get((row["duplicate_of"], row["slot"]))) for row in rows)
    return f'<h3>{_text(title)}</h3><div class="pictures">{figures}</div>'


def _figure(row: Mapping[str, Any], original: bytes | None) -> str:
    caption = " ".join(str(row["caption"] or "").split())[:MAX_CAPTION_CHARS]
    pictures = (_image(original) if row["duplicate_of"] else "") + _image(row["jpeg"])
    kind = ' class="pair"' if row["duplicate_of"] else ""
    return (
        f"<figure{kind}>{pictures}<figcaption>{_text(caption)}<br>"
        f"<code>{_text(row['sample_id'][:12])}</code></figcaption></figure>"
    )


def _image(jpeg: bytes | None) -> str:
    if not jpeg:
        return '<span class="none">cannot be shown</span>'
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
