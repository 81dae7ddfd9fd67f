"""WebDataset tars become records; damaged ones as far as they can be read."""

import gzip
import json
from pathlib import Path

import pytest

from data_pipelines.ingest.config import IngestConfig
from tests.data_pipelines.ingest.raw_files import ingest, line, png, reasons, tar_bytes


def test_a_webdataset_tar_becomes_records(tmp_path: Path) -> None:
    turns = line("x")["conversations"]
    members = {
        "s1.png": png(1), "s1.txt": b"a red circle\n", "s1.json": b'{"license": "CC0", "split": "val", "id": "one"}',
        "s2.json": json.dumps({"conversations": turns}).encode(), "s2.png": png(2),
        "s3.png": png(3), "s4.txt": b"words only", "s5.png": png(5), "s5.json": b"{broken",
        "../s6.png": png(6), "d/s7.jpg": png(7), "d/s7.txt": b"a caption",
    }  # fmt: skip
    path = tmp_path / "part_test.tar"
    path.write_bytes(tar_bytes(members))
    rows = ingest(tmp_path / "out", IngestConfig(source="t", format="webdataset"), [path])
    assert reasons(rows) == {
        "one": None, "s2": None, "s3": "caption_missing", "s4": "missing_file", "s5": "broken_json",
        "../s6.png": "path_traversal", "d/s7": None,
    }  # fmt: skip
    assert (rows[0]["license"], rows[0]["split"], rows[0]["task"]) == ("CC0", "val", "understanding")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero_byte"),
        (b"<html>" * 500, "broken_tar"),
        (gzip.compress(bytes(9999))[:-20], "truncated_archive"),
    ],
)
def test_a_container_that_cannot_be_read_is_one_row(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(data)
    rows = ingest(tmp_path / "out", IngestConfig(source="t", format="webdataset"), [path])
    assert [(row["reject"], row["source_row"]) for row in rows] == [(reason, -1)]


def test_damaged_tars_give_up_every_whole_sample(tmp_path: Path, shared: Path) -> None:
    dirty = shared / "data" / "dirty"
    truth = [json.loads(text) for text in (dirty / "tar_truth.jsonl").read_text().splitlines()]
    config = IngestConfig(source="t", format="webdataset")
    for path in sorted((dirty / "tars").iterdir()):
        rows = ingest(tmp_path / path.stem, config, [path])
        read = {row["external_id"] for row in rows if row["reject"] is None}
        wanted = {
            t["member"] for t in truth if t["where"] == f"tars/{path.name}" and t["verdict"] == "keep" and t["member"]
        }
        assert wanted <= read
