"""Tables of ingested shards are read row by row; a damaged one is an error in the data."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.datasets.ingested_reader import ROWS_AT_ONCE, record_shards, shard_rows
from models.errors import DataError


def test_rows_are_read_in_order_with_the_chosen_columns(tmp_path: Path) -> None:
    numbers = list(range(ROWS_AT_ONCE + 3))
    pq.write_table(pa.table({"a": numbers, "b": numbers}), tmp_path / "s.parquet")
    assert list(shard_rows(tmp_path / "s.parquet", ["b"])) == [{"b": number} for number in numbers]


def test_shards_have_the_names_of_their_records(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    for name in "ba":
        (tmp_path / "records" / f"{name}.parquet").touch()
    assert record_shards(tmp_path) == ["a", "b"]


def test_a_damaged_or_missing_table_is_an_error_in_the_data(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"a": ["word"] * 5000}), path, compression="none", use_dictionary=False)
    data = path.read_bytes()
    for damaged in (data[:-100], b"", data[:20] + b"\xff" * 40 + data[60:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"s\.parquet: not a table that can be read"):
            list(shard_rows(path))
    path.unlink()
    with pytest.raises(DataError, match=r"s\.parquet: not a table that can be read"):
        list(shard_rows(path))
