"""Metrics of single columns of a curated dataset's ledgers."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.verdicts import COLUMN_METRICS, LEDGER_COLUMNS


def column_metrics(ledgers: Iterable[Path]) -> dict[str, float]:
    """`column/COLUMN/METRIC` over the kept rows, about first images. A column without values has no "min" and "max"."""
    count, nulls, total, low, high = COLUMN_METRICS
    sums: Counter[str] = Counter()
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    for path in ledgers:
        table = pq.read_table(path, columns=["verdict", *LEDGER_COLUMNS])
        kept = table.filter(pc.equal(table["verdict"], "keep"))
        for column in LEDGER_COLUMNS:
            values, name = kept[column], f"column/{column}"
            sums[f"{name}/{count}"] += len(values) - values.null_count
            sums[f"{name}/{nulls}"] += values.null_count
            sums[f"{name}/{total}"] += pc.sum(values).as_py() or 0
            if len(values) > values.null_count:
                minimum, maximum = pc.min_max(values).as_py().values()
                lowest[f"{name}/{low}"] = min(minimum, lowest.get(f"{name}/{low}", minimum))
                highest[f"{name}/{high}"] = max(maximum, highest.get(f"{name}/{high}", maximum))
    return {name: float(value) for name, value in {**sums, **lowest, **highest}.items()}
