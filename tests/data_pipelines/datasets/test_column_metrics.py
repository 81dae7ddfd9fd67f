from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.datasets.column_metrics import column_metrics
from data_pipelines.datasets.verdicts import LEDGER_COLUMNS

ROWS = [("keep", 640, 480, 9000), ("keep", None, None, None), ("drop", 9999, 1, 1), ("keep", 320, 500, 7000)]


@pytest.fixture
def ledgers(tmp_path: Path) -> list[Path]:
    """The rows in two files, and one without rows."""
    paths = []
    for number, rows in enumerate((ROWS[:2], ROWS[2:], [])):
        schema = pa.schema([("verdict", pa.string())] + [(name, pa.int64()) for name in LEDGER_COLUMNS])
        table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)
        paths.append(tmp_path / f"{number}.parquet")
        pq.write_table(table, paths[-1])
    return paths


def test_what_is_kept_is_summed_over_all_ledgers(ledgers: list[Path]) -> None:
    found = column_metrics(ledgers)
    assert {name: value for name, value in found.items() if "/width/" in name} == {
        "column/width/count": 2,
        "column/width/nullCount": 1,
        "column/width/sum": 960,
        "column/width/min": 320,
        "column/width/max": 640,
    }
    assert (found["column/height/max"], found["column/image_bytes/sum"]) == (500, 16000)
    assert len(found) == 3 * len(LEDGER_COLUMNS) + 2 * len(LEDGER_COLUMNS)


def test_a_column_without_values_has_no_extremes(ledgers: list[Path]) -> None:
    found = column_metrics(ledgers[2:])
    assert found["column/width/count"] == found["column/width/sum"] == 0
    assert not [name for name in found if name.endswith(("min", "max"))]
