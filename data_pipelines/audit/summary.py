"""Counts the records of a curated dataset by verdict, reason and other properties, from its ledgers alone.

Ledgers are read shard by shard and summed by Arrow, so memory does not grow with the dataset.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from humanize import naturalsize

from data_pipelines.audit.histograms import Histogram, add_to_histograms, empty_histograms, histogram_to_json
from data_pipelines.datasets.ledgers import ledger_tables
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.verdicts import VERDICTS
from data_pipelines.ingest.files.orphans import read_orphans

AUDIT_FORMAT = 1
COLUMNS = ["verdict", "reason", "source", "license", "split", "task", "format", "width", "height", "anchor_h",
           "anchor_w", "image_bytes", "caption", "language", "repairs", "scores"]  # fmt: skip
SIDE_BOUNDS = (64, 128, 256, 512, 1024, 2048)  # pixels of the shorter side
CAPTION_BOUNDS = (20, 50, 100, 200, 500)  # characters; ledgers keep the first 500
ASPECT_BOUNDS = (0.5, 0.67, 0.9, 1.12, 1.5, 2.0)  # width / height
BYTES_BOUNDS = (1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22)  # of the first image's file
TITLES = {
    "reason": "Reason",
    "source": "Source",
    "license": "Licence",
    "task": "Task",
    "split": "Split",
    "format": "Format of the first image",
    "side": "Shorter side, pixels",
    "aspect": "Width / height",
    "anchor": "Anchor that the image is cropped to, height x width",
    "bytes": "Size of the first image's file",
    "caption": "Length of the text, characters",
    "language": "Language",
    "repairs": "Repaired texts, by reason",
}
BINNED = ("side", "aspect", "bytes", "caption")  # tables in the order of their bins; the others by number of rows


@dataclass(kw_only=True)
class Cell:
    """The rows with one value and the bytes of their first images, by verdict."""

    rows: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    def add(self, verdict: str, rows: int, num_bytes: int) -> None:
        self.rows[verdict] = self.rows.get(verdict, 0) + rows
        self.bytes[verdict] = self.bytes.get(verdict, 0) + num_bytes


@dataclass(frozen=True, kw_only=True)
class AuditSummary:
    """All counts of a dataset: `tables[name][value]`, where name is a key of `TITLES`; `whole` counts all rows."""

    name: str
    whole: Cell
    tables: Mapping[str, Mapping[str, Cell]]
    histograms: Mapping[str, Histogram]  # by the names of `histograms.EDGES`
    orphans: int  # files of the sources that no record names

    def share(self, verdict: str) -> float:
        return self.whole.rows.get(verdict, 0) / max(1, self.whole.total)


def audit_dataset(folder: Path) -> AuditSummary:
    """The counts over all ledgers of the dataset in `folder`.

    Raises: DatasetError if it is not a curated dataset or a ledger is missing or damaged.
    """
    dataset = CuratedDataset(folder)
    whole = Cell()
    tables: dict[str, dict[str, Cell]] = {name: {} for name in TITLES}
    histograms = empty_histograms()
    for table in ledger_tables(dataset, COLUMNS):
        try:
            _add_counts(table, whole, tables)
            add_to_histograms(table, histograms)
        except (pa.ArrowException, ValueError) as error:
            raise DatasetError(f"{folder / 'ledger'}: found rows of another kind ({error}); curate again") from error
    ordered = {name: _sort_cells(name, cells) for name, cells in tables.items()}
    orphans = sum(1 for _ in read_orphans(folder))
    return AuditSummary(name=dataset.name, whole=whole, tables=ordered, histograms=histograms, orphans=orphans)


def _sort_cells(name: str, cells: Mapping[str, Cell]) -> dict[str, Cell]:
    if name in BINNED:
        return {value: cells[value] for value in _bin_labels(name) if value in cells}
    return dict(sorted(cells.items(), key=lambda entry: (-entry[1].total, entry[0])))


def _add_counts(table: Any, whole: Cell, tables: dict[str, dict[str, Cell]]) -> None:
    columns = {
        "reason": table["reason"],
        **{name: _or_none_stated(table[name]) for name in ("source", "license", "task", "split", "language")},
        "format": pc.fill_null(table["format"], "no image read"),
        "side": _bins("side", pc.min_element_wise(table["width"], table["height"])),
        "aspect": _bins("aspect", pc.divide(pc.cast(table["width"], pa.float64()), table["height"])),
        "anchor": _anchors(table),
        "bytes": _bins("bytes", table["image_bytes"]),
        "repairs": _joined(table["repairs"]),
        "caption": _bins("caption", pc.utf8_length(pc.fill_null(table["caption"], ""))),
    }
    data = pa.table({**columns, "verdict": table["verdict"], "num_bytes": pc.fill_null(table["image_bytes"], 0)})
    for verdict, _, rows, num_bytes in _sums(data, ["verdict"]):
        whole.add(verdict, rows, num_bytes)
    for name, cells in tables.items():
        for verdict, value, rows, num_bytes in _sums(data.filter(pc.is_valid(data[name])), ["verdict", name]):
            cells.setdefault(value, Cell()).add(verdict, rows, num_bytes)


def _sums(data: Any, keys: list[str]) -> Iterator[tuple[str, str, int, int]]:
    """(verdict, value, rows, bytes) of each group."""
    for row in data.group_by(keys, use_threads=False).aggregate([("num_bytes", "sum"), ([], "count_all")]).to_pylist():
        yield row["verdict"], row[keys[-1]], row["count_all"], row["num_bytes_sum"]


def _or_none_stated(column: Any) -> Any:
    return pc.if_else(pc.equal(pc.fill_null(column, ""), ""), "none stated", column)


def _joined(lists: Any) -> Any:
    """Each list as one text, null where it is empty."""
    joined = pc.fill_null(pc.binary_join(lists, ", "), "")
    return pc.if_else(pc.equal(joined, ""), None, joined)


def _anchors(table: Any) -> Any:
    """ "64x96", null for rows without an image, "none fits" for images that no anchor fits."""
    height, width = (pc.cast(table[name], pa.string()) for name in ("anchor_h", "anchor_w"))
    joined = pc.binary_join_element_wise(height, width, "x")
    return pc.if_else(pc.is_valid(table["width"]), pc.fill_null(joined, "none fits"), None)


def _bounds(name: str) -> tuple[float, ...]:
    return {"side": SIDE_BOUNDS, "aspect": ASPECT_BOUNDS, "bytes": BYTES_BOUNDS, "caption": CAPTION_BOUNDS}[name]


def _bin_labels(name: str) -> list[str]:
    bounds = [
        naturalsize(bound, binary=True, format="%.0f") if name == "bytes" else f"{bound:g}" for bound in _bounds(name)
    ]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(bounds)]
    return [f"under {bounds[0]}", *between, f"{bounds[-1]} and more"]


def _bins(name: str, values: Any) -> Any:
    """The label of each value's bin, null where the value is null."""
    numbers = np.asarray(pc.fill_null(pc.cast(values, pa.float64()), np.nan))
    indices = np.digitize(numbers, _bounds(name))
    return pa.array(np.asarray(_bin_labels(name), dtype=object)[indices], pa.string(), mask=np.isnan(numbers))


def summary_to_json(summary: AuditSummary) -> dict[str, Any]:
    """The whole summary as JSON for scripts."""
    return {
        "format": AUDIT_FORMAT,
        "name": summary.name,
        "rows": summary.whole.total,
        "orphans": summary.orphans,
        "verdicts": {verdict: summary.whole.rows.get(verdict, 0) for verdict in VERDICTS},
        "bytes": {verdict: summary.whole.bytes.get(verdict, 0) for verdict in VERDICTS},
        "tables": {
            name: {value: {"rows": cell.rows, "bytes": cell.bytes} for value, cell in cells.items()}
            for name, cells in summary.tables.items()
        },
        "histograms": {name: histogram_to_json(histogram) for name, histogram in summary.histograms.items()},
    }


def summary_text(summary: AuditSummary) -> str:
    """The summary as text for a terminal: one line for each verdict, then the tables."""
    lines = [f"{printable(summary.name)}: {summary.whole.total:,} records", ""]
    for verdict in VERDICTS:
        rows, num_bytes = summary.whole.rows.get(verdict, 0), summary.whole.bytes.get(verdict, 0)
        lines.append(f"  {verdict:<15}{rows:>12,}  {summary.share(verdict):>6.1%}  {bytes_text(num_bytes):>10}")
    if summary.orphans:
        lines += ["", f"  {summary.orphans:,} files that no record names"]
    for name, cells in summary.tables.items():
        if not cells:
            continue
        width = min(48, max(len(printable(value)) for value in cells))
        heads = "".join(f"{verdict:>15}" for verdict in VERDICTS)
        lines += ["", TITLES[name], f"  {'':<{width}}{heads}"]
        for value, cell in cells.items():
            counts = "".join(f"{cell.rows.get(verdict, 0):>15,}" for verdict in VERDICTS)
            lines.append(f"  {printable(value)[:width]:<{width}}{counts}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """The text, safe for a terminal: characters that move the cursor or reverse text become U+FFFD."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def bytes_text(number: float) -> str:
    """`512 Bytes`, `1.5 MiB`."""
    return naturalsize(number, binary=True)
