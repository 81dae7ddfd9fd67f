"""Figures of single columns of a curated dataset's ledgers."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.verdicts import COLUMN_METRICS, LEDGER_COLUMNS


def column_figures(ledgers: Iterable[Path]) -> dict[str, float]:
    """`column/COLUMN/METRIC` of the first pictures of what is kept; no "min" and "max" of a column without values."""
    count, nulls, total, low, high = COLUMN_METRICS
    added: Counter[str] = Counter()
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    for path in ledgers:
        table = pq.read_table(path, columns=["verdict", *LEDGER_COLUMNS])
        kept = table.filter(pc.equal(table["verdict"], "keep"))
        for column in LEDGER_COLUMNS:
            values, name = kept[column], f"column/{column}"
            added[f"{name}/{count}"] += len(values) - values.null_count
            added[f"{name}/{nulls}"] += values.null_count
            added[f"{name}/{total}"] += pc.sum(values).as_py() or 0
            if len(values) > values.null_count:
                least, most = pc.min_max(values).as_py().values()
                lowest[f"{name}/{low}"] = min(least, lowest.get(f"{name}/{low}", least))
                highest[f"{name}/{high}"] = max(most, highest.get(f"{name}/{high}", most))
    return {name: float(value) for name, value in {**added, **lowest, **highest}.items()}
