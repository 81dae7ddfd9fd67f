"""Measures what changed between two versions of a curated dataset: shares of every table, samples added and removed.

Verdicts and reasons are compared over all records, everything else over the kept ones, which are what a model is
trained on.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.audit.summary import TITLES, AuditSummary, Cell, printable
from data_pipelines.datasets.ledgers import id_prefixes, ledger_tables, ranks, sorted_unique
from data_pipelines.datasets.reader import CuratedDataset, DatasetError

OF_ALL = ("verdict", "reason")  # compared over all records
DRIFT_TITLES = {"verdict": "Verdict", **TITLES}
NO_REASON = "none"
IDS_AT_ONCE = 1 << 24  # of each dataset: 8 bytes each, a second copy while they are sorted
LITTLE, MUCH = 0.1, 0.25  # of the stability index: below the first it is negligible, above the second look into it
MIN_SHOWN_INDEX = 0.001  # of the tables that the text lists value by value; pages and JSON have all
NUM_SHOWN_SAMPLES = 48
MAX_TEXT_VALUES = 12
ADDED_SALT = 3


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One table of counts in both versions: rows by value, for every value of either version."""

    name: str  # of a table of the audit, or "verdict"
    then: Mapping[str, int]
    now: Mapping[str, int]
    index: float  # population stability index

    def shares(self, value: str) -> tuple[float, float]:
        """Then and now."""
        then, now = sum(self.then.values()), sum(self.now.values())
        return self.then.get(value, 0) / max(1, then), self.now.get(value, 0) / max(1, now)

    def largest_share(self) -> float:
        """Of any value in either version."""
        return max((max(self.shares(value)) for value in self.now), default=1.0)

    def by_change(self) -> list[str]:
        """Values, those whose share changed most first."""
        return sorted(self.now, key=lambda value: (-abs(self.shares(value)[1] - self.shares(value)[0]), value))


@dataclass(frozen=True, kw_only=True)
class SampleChanges:
    """The numbers of samples added and removed, by id; a sample that is in a ledger twice counts once."""

    added: int
    removed: int
    common: int
    kept_added: int  # kept now, but then missing or not kept
    kept_removed: int
    shown: frozenset[int]  # the first 64 bits of the ids of a random choice of those of `kept_added`


@dataclass(frozen=True, kw_only=True)
class Drift:
    then_name: str
    then_rows: int
    now_rows: int
    shifts: Sequence[Shift]  # the largest difference first
    samples: SampleChanges


def measure_drift(folder: Path, now: AuditSummary, earlier: Path, then: AuditSummary) -> Drift:
    """Compare the dataset in `folder`, with the summary `now`, with the one in `earlier`, with the summary `then`.

    Raises: DatasetError if a ledger cannot be read.
    """
    shifts = [_shift(name, then, now) for name in DRIFT_TITLES]
    return Drift(
        then_name=then.name,
        then_rows=then.whole.total,
        now_rows=now.whole.total,
        shifts=sorted(shifts, key=lambda shift: -shift.index),
        samples=sample_changes(folder, earlier),
    )


def stability_index(then: Mapping[str, int], now: Mapping[str, int]) -> float:
    """The population stability index of two tables of counts: the sum of (q - p) ln(q / p) over all values.

    Half a row is added to each value, so that a new or missing one counts much, but not infinitely; 0 if either table
    is empty. Sources: N. Siddiqi, Credit Risk Scorecards, Wiley 2006, section "Scorecard stability" (also for
    the bounds 0.1 and 0.25); it is the symmetric divergence of H. Jeffreys, Proc. R. Soc. A 186 (1946), whose prior
    the half rows are.
    """
    values = then.keys() | now.keys()
    num_then, num_now = sum(then.values()), sum(now.values())
    if not num_then or not num_now:
        return 0.0
    index = 0.0
    for value in sorted(values):
        p = (then.get(value, 0) + 0.5) / (num_then + 0.5 * len(values))
        q = (now.get(value, 0) + 0.5) / (num_now + 0.5 * len(values))
        index += (q - p) * math.log(q / p)
    return index


def _shift(name: str, then: AuditSummary, now: AuditSummary) -> Shift:
    before, after = _counts(name, then), _counts(name, now)
    values = [*after, *(value for value in before if value not in after)]
    return Shift(
        name=name,
        then={value: before.get(value, 0) for value in values},
        now={value: after.get(value, 0) for value in values},
        index=stability_index(before, after),
    )


def _counts(name: str, summary: AuditSummary) -> dict[str, int]:
    if name == "verdict":
        return {verdict: rows for verdict, rows in summary.whole.rows.items() if rows}
    table: Mapping[str, Cell] = summary.tables[name]
    if name in OF_ALL:
        counts = {value: cell.total for value, cell in table.items()}
        return counts | {NO_REASON: summary.whole.total - sum(counts.values())}
    return {value: cell.rows["keep"] for value, cell in table.items() if cell.rows.get("keep")}


def sample_changes(folder: Path, earlier: Path, *, ids_at_once: int = IDS_AT_ONCE) -> SampleChanges:
    """Compare the ids of two datasets. The ids of at most about `ids_at_once` rows of each are in memory at a time.

    Raises: DatasetError if a ledger cannot be read.
    """
    datasets = CuratedDataset(folder), CuratedDataset(earlier)
    num_parts = max(1, -(-max(_num_rows(dataset) for dataset in datasets) // ids_at_once))
    added = removed = common = kept_added = kept_removed = 0
    lowest = np.zeros(0, np.uint64)
    for part in range(num_parts):
        now, now_kept = _ids(datasets[0], part, num_parts)
        then, then_kept = _ids(datasets[1], part, num_parts)
        shared = len(np.intersect1d(now, then, assume_unique=True))
        added, removed, common = added + len(now) - shared, removed + len(then) - shared, common + shared
        fresh = np.setdiff1d(now_kept, then_kept, assume_unique=True)
        kept_added += len(fresh)
        kept_removed += len(np.setdiff1d(then_kept, now_kept, assume_unique=True))
        candidates = np.concatenate([lowest, fresh])
        lowest = candidates[np.argsort(ranks(candidates, ADDED_SALT), kind="stable")[:NUM_SHOWN_SAMPLES]]
    return SampleChanges(
        added=added,
        removed=removed,
        common=common,
        kept_added=kept_added,
        kept_removed=kept_removed,
        shown=frozenset(lowest.tolist()),
    )


def _num_rows(dataset: CuratedDataset) -> int:
    total = 0
    for shard in dataset.shards:
        path = dataset.folder / "ledger" / f"{shard}.parquet"
        try:
            total += pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error
    return total


def _ids(dataset: CuratedDataset, part: int, num_parts: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The ids of one part of all possible ids, sorted, each once: of all rows, and of the kept ones."""
    everything, kept = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for prefixes, is_kept in _prefixes(dataset):
        chosen = prefixes % np.uint64(num_parts) == part if num_parts > 1 else np.ones(len(prefixes), np.bool_)
        everything.append(prefixes[chosen])
        kept.append(prefixes[chosen & is_kept])
    return sorted_unique(np.concatenate(everything)), sorted_unique(np.concatenate(kept))


def _prefixes(dataset: CuratedDataset) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]]:
    for table in ledger_tables(dataset, ["sample_id", "verdict"]):
        try:
            prefixes = id_prefixes(table["sample_id"])
        except ValueError as error:
            raise DatasetError(f"{dataset.folder / 'ledger'}: {error}; curate again") from error
        yield prefixes, np.asarray(pc.equal(table["verdict"], "keep"))


def drift_to_json(drift: Drift) -> dict[str, Any]:
    """The drift as JSON for scripts: everything but the choice of samples that the page shows."""
    samples = drift.samples
    return {
        "against": drift.then_name,
        "rows": {"then": drift.then_rows, "now": drift.now_rows},
        "samples": {
            "added": samples.added,
            "removed": samples.removed,
            "common": samples.common,
            "kept_added": samples.kept_added,
            "kept_removed": samples.kept_removed,
        },
        "tables": {
            shift.name: {"index": shift.index, "then": dict(shift.then), "now": dict(shift.now)}
            for shift in drift.shifts
        },
    }


def drift_text(drift: Drift) -> str:
    """The drift as text for a terminal: samples added and removed, then the changed tables, the most changed first."""
    samples = drift.samples
    lines = [
        f"Against {printable(drift.then_name)}: {drift.then_rows:,} records then, {drift.now_rows:,} now",
        "",
        f"  samples  {samples.added:>12,} added  {samples.removed:>12,} removed  {samples.common:>12,} in both",
        f"  kept     {samples.kept_added:>12,} added  {samples.kept_removed:>12,} removed",
        "",
        f"  Difference of each table (population stability index: under {LITTLE:g} little, over {MUCH:g} much)",
        *(f"  {shift.index:>10.4f}  {DRIFT_TITLES[shift.name]}" for shift in drift.shifts),
    ]
    for shift in drift.shifts:
        values = [value for value in shift.by_change() if shift.shares(value)[0] != shift.shares(value)[1]]
        if shift.index < MIN_SHOWN_INDEX or not values:
            continue
        width = min(48, max(len(printable(value)) for value in values[:MAX_TEXT_VALUES]))
        lines += ["", f"{DRIFT_TITLES[shift.name]}, share then and now", ""]
        for value in values[:MAX_TEXT_VALUES]:
            then, now = shift.shares(value)
            change = 100 * (now - then)
            lines.append(f"  {printable(value)[:width]:<{width}}{then:>9.2%}{now:>9.2%}{change:>+9.2f}")
        if len(values) > MAX_TEXT_VALUES:
            lines.append(f"  and {len(values) - MAX_TEXT_VALUES:,} more")
    return "\n".join(lines)
