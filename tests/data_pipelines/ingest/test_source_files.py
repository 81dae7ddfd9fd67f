"""Input files are found below paths and patterns, each with its own format."""

import lzma
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.image_sources import open_images
from data_pipelines.ingest.shards import (
    plan_ingest,
)
from data_pipelines.ingest.source_files import find_sources
from tests.data_pipelines.ingest.raw_files import ILLUME, LIMITS, ingest, png, raw_folder, tar_bytes


def test_the_format_of_each_file_is_detected(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    members = {"s1.png": png(1), "s1.txt": b"a red circle"}
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "lines.txt").write_bytes((raw / "annotations" / "some_val.jsonl").read_bytes())
    (folder / "named.jsonl").write_bytes(tar_bytes(members))
    (folder / "packed.bin").write_bytes(lzma.compress(tar_bytes(members)))
    (folder / "broken.tar").write_bytes(b"<html>" * 500)
    table = pa.table({"image": pa.array([{"bytes": png(1), "path": "x"}]), "caption": ["a red circle"]})
    pq.write_table(table, folder / "table")
    assert {source.display_name: source.format for source in find_sources(ILLUME, [folder / "*"])} == {
        "lines.txt": "illume", "named.jsonl": "webdataset", "packed.bin": "webdataset", "broken.tar": "webdataset",
        "table": "parquet",
    }  # fmt: skip
    rows = ingest(tmp_path / "out", ILLUME, [folder / "*"], [raw / "images"])
    assert Counter(row["reject"] for row in rows) == {None: 6, "broken_tar": 1}
    assert {source.display_name: source.format for source in find_sources(ILLUME, [folder])} == {
        "named.jsonl": "illume", "broken.tar": "webdataset",
    }  # fmt: skip
    named = find_sources(IngestConfig(source="mine", format="webdataset"), [folder])
    assert [source.display_name for source in named] == ["broken.tar"]


def test_a_path_that_matches_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing to ingest, expected \.jsonl or \.tar or \.parquet or"):
        plan_ingest(ILLUME, [tmp_path / "*.jsonl"])
    with pytest.raises(FileNotFoundError, match="no such folder or tar of images"):
        open_images([tmp_path / "absent"], **LIMITS)
