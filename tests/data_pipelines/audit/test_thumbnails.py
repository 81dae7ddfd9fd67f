"""Thumbnails are a view, derived from ingested records: few for each verdict and reason, none without the records."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.audit.thumbnails import (
    MAX_SHARDS,
    RECORDS_PER_REASON,
    SCHEMA,
    derive_thumbnails,
    read_thumbnails,
    shown_shards,
)
from data_pipelines.datasets.reader import CuratedDataset
from tests.data_pipelines.ledger_rows import ledger_row, write_ledgers


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.iterdir()) for row in pq.read_table(path).to_pylist()]


def test_they_show_each_verdict_are_few_and_always_the_same(dataset: Path, tmp_path: Path) -> None:
    for target in ("one", "two"):
        derive_thumbnails(dataset, [dataset.parent / "records"], tmp_path / target)
    rows = rows_of(tmp_path / "one")
    assert rows == rows_of(tmp_path / "two")
    assert {row["verdict"] for row in rows} == {"keep", "drop", "duplicate", "near_duplicate"}
    broken = {row["sample_id"] for row in rows if row["reason"] in ("zero_byte", "not_an_image")}
    assert broken == {row["sample_id"] for row in rows if row["jpeg"] is None and row["sample_id"] in broken}
    assert all(max(Image.open(io.BytesIO(row["jpeg"])).size) <= 128 for row in rows if row["verdict"] == "keep")
    shards = len(list((tmp_path / "one").iterdir()))
    assert sum(row["verdict"] == "keep" and row["slot"] == 0 for row in rows) <= RECORDS_PER_REASON * shards


def test_without_the_records_there_are_none(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    derive_thumbnails(dataset, [tmp_path / "empty"], tmp_path / "view")
    assert list((tmp_path / "view").iterdir()) == []
    opened = CuratedDataset(dataset, thumbnails=tmp_path / "view")
    assert read_thumbnails(opened, opened.shards[0], ["sample_id"]).num_rows == 0


def test_those_in_an_older_dataset_are_read_with_todays_reasons(tmp_path: Path) -> None:
    write_ledgers(tmp_path / "data", [[ledger_row(1)]])
    dataset = CuratedDataset(tmp_path / "data")
    (tmp_path / "data" / "thumbnails").mkdir()
    fields: dict[str, Any] = dict.fromkeys(SCHEMA.names) | {"sample_id": "a", "reason": "similar_picture"}
    table = pa.Table.from_pylist([fields], schema=SCHEMA)
    pq.write_table(table, tmp_path / "data" / "thumbnails" / f"{dataset.shards[0]}.parquet")
    assert read_thumbnails(dataset, dataset.shards[0], ["reason"])["reason"].to_pylist() == ["similar_image"]


def test_of_many_shards_some_are_shown_evenly(tmp_path: Path) -> None:
    write_ledgers(tmp_path, [[ledger_row(number)] for number in range(3 * MAX_SHARDS)])
    dataset = CuratedDataset(tmp_path)
    assert shown_shards(dataset) == list(dataset.shards[::3])
