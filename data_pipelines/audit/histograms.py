"""Histograms of sizes, lengths and scores in a curated dataset. Their bins are fixed, so two datasets compare."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

SCORES = ("entropy", "sharpness", "contrast")
COLUMNS = ["verdict", "width", "height", "image_bytes", "caption", "scores"]


def _octaves(low: int, high: int, parts: int) -> tuple[float, ...]:
    """From 2^low to 2^high, each doubling in `parts` equal ratios."""
    return tuple(float(2 ** (low + step / parts)) for step in range((high - low) * parts + 1))


def _even(low: float, high: float, parts: int) -> tuple[float, ...]:
    return tuple(low + (high - low) * step / parts for step in range(parts + 1))


EDGES: Mapping[str, tuple[float, ...]] = {  # values outside are counted in the first or the last bin
    "width": _octaves(4, 14, 4),  # pixels of the first image, upright
    "height": _octaves(4, 14, 4),
    "aspect": _octaves(-3, 3, 8),  # width / height
    "bytes": _octaves(6, 26, 2),  # of the first image's file
    "caption": _even(0, 500, 25),  # characters; ledgers keep the first 500
    "entropy": _even(0, 8, 32),  # bits
    "sharpness": _even(0, 1, 40),
    "contrast": _even(0, 128, 32),  # standard deviation of the greys
}


@dataclass(kw_only=True)
class Histogram:
    """Rows in each bin between neighbouring edges: the kept ones, and those with any other verdict."""

    edges: tuple[float, ...]
    kept: npt.NDArray[np.int64] = field(init=False)
    not_kept: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.kept = np.zeros(len(self.edges) - 1, np.int64)
        self.not_kept = np.zeros(len(self.edges) - 1, np.int64)

    @property
    def total(self) -> int:
        return int(self.kept.sum() + self.not_kept.sum())

    def add(self, values: npt.NDArray[np.float64], is_kept: npt.NDArray[np.bool_]) -> None:
        """Count values; non-finite ones are skipped."""
        is_finite = np.isfinite(values)
        bins = np.clip(np.digitize(values[is_finite], self.edges) - 1, 0, len(self.kept) - 1)
        kept = is_kept[is_finite]
        self.kept += np.bincount(bins[kept], minlength=len(self.kept))
        self.not_kept += np.bincount(bins[~kept], minlength=len(self.kept))

    def median(self) -> float:
        """The median of all rows, to the precision of the bins: the upper edge of the bin that holds it."""
        running = np.cumsum(self.kept + self.not_kept)
        return self.edges[int(np.searchsorted(running, self.total / 2)) + 1] if self.total else float("nan")


def empty_histograms() -> dict[str, Histogram]:
    return {name: Histogram(edges=edges) for name, edges in EDGES.items()}


def add_to_histograms(table: Any, histograms: Mapping[str, Histogram]) -> None:
    """Count the rows of a batch of a ledger that has the columns `COLUMNS`.

    Raises: ValueError for scores that are not JSON.
    """
    is_kept = np.asarray(pc.equal(table["verdict"], "keep"))
    width, height = _numbers(table["width"]), _numbers(table["height"])
    values = {
        "width": width,
        "height": height,
        "aspect": np.divide(width, height, out=np.full_like(width, np.nan), where=height > 0),
        "bytes": _numbers(table["image_bytes"]),
        "caption": _numbers(pc.utf8_length(pc.fill_null(table["caption"], ""))),
        **score_columns(table["scores"]),
    }
    for name, histogram in histograms.items():
        histogram.add(values[name], is_kept)


def score_columns(column: Any) -> dict[str, npt.NDArray[np.float64]]:
    """The `SCORES` in a column of JSON objects, NaN where a row has none. All rows are parsed at once."""
    if not len(column):
        return {name: np.zeros(0) for name in SCORES}
    objects = pc.fill_null(column, "")
    lines = pc.if_else(pc.equal(objects, ""), "{}", objects)
    lines = lines.combine_chunks() if isinstance(lines, pa.ChunkedArray) else lines
    text = pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n")[0].as_buffer()
    schema = pa.schema([(name, pa.float64()) for name in SCORES])
    parse_options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    read_options = pj.ReadOptions(use_threads=False, block_size=max(1 << 20, text.size))
    table = pj.read_json(pa.BufferReader(text), read_options=read_options, parse_options=parse_options)
    if len(table) != len(column):
        raise ValueError(f"found {len(table)} score objects in {len(column)} rows")
    return {name: _numbers(table[name]) for name in SCORES}


def _numbers(column: Any) -> npt.NDArray[np.float64]:
    return np.asarray(pc.fill_null(pc.cast(column, pa.float64()), np.nan), dtype=np.float64)


def histogram_to_json(histogram: Histogram) -> dict[str, Any]:
    return {
        "edges": [float(f"{edge:.6g}") for edge in histogram.edges],
        "kept": histogram.kept.tolist(),
        "not_kept": histogram.not_kept.tolist(),
    }
