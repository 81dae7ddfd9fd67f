"""Source files become shards of records: a bad unit is a row with its reason, equal input gives equal bytes."""

import hashlib
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.shards import (
    load_metadata,
    plan_ingest,
)
from models.errors import DataError
from tests.data_pipelines.ingest.raw_files import ILLUME, ingest, line, png, raw_folder


def test_an_annotation_file_becomes_records_with_their_images(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    rows = ingest(tmp_path / "out", ILLUME, [raw / "annotations"], [raw / "images"])
    assert [(row["external_id"], row["split"], row["task"], row["reject"]) for row in rows] == [
        (name, "val", "understanding", None) for name in "abc"
    ]
    assert json.loads(rows[0]["conversations"])[1] == {"role": "gpt", "text": "a red circle"}
    index = pq.read_table(tmp_path / "out" / "index" / "some_val.parquet").to_pylist()
    tar = (tmp_path / "out" / "images" / "some_val.tar").read_bytes()
    stored = {entry["sha256"]: tar[entry["offset"] : entry["offset"] + entry["bytes"]] for entry in index}
    assert [stored[row["images"][0]] for row in rows] == [png(number) for number in range(3)]
    assert all(entry["member"] == entry["sha256"] + ".png" for entry in index)


def test_an_image_used_twice_is_stored_once(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw", "a")
    path = raw / "annotations" / "some_val.jsonl"
    path.write_text(json.dumps(line("a")) + "\n" + json.dumps(line("a", "another text")) + "\n")
    rows = ingest(tmp_path / "out", ILLUME, [path], [raw / "images"])
    assert rows[0]["images"] == rows[1]["images"]
    assert rows[0]["sample_id"] != rows[1]["sample_id"]
    assert pq.read_table(tmp_path / "out" / "index" / "some_val.parquet").num_rows == 1


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    digests = []
    for folder in ("one", "two/deeper"):
        raw = raw_folder(tmp_path / folder / "raw")
        os.utime(raw / "images" / "a.png", (1, len(folder)))
        output = tmp_path / folder / "out"
        ingest(output, ILLUME, [raw / "annotations"], [raw / "images"])
        files = sorted(path for path in output.rglob("*") if path.is_file())
        digests.append([(str(f.relative_to(output)), hashlib.sha256(f.read_bytes()).hexdigest()) for f in files])
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3


def test_lines_are_cut_into_shards_that_together_are_the_file(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw", "abcdefg")
    whole = ingest(tmp_path / "whole", ILLUME, [raw / "annotations"], [raw / "images"])
    config = IngestConfig(source="mine", rows_per_shard=3)
    assert [shard.name for shard in plan_ingest(config, [raw / "annotations"])] == [
        f"some_val-{n:05d}" for n in range(3)
    ]
    assert ingest(tmp_path / "parts", config, [raw / "annotations"], [raw / "images"]) == whole


def test_adding_a_file_keeps_the_names_of_the_other_shards(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    before = plan_ingest(ILLUME, [raw / "annotations"])
    (raw / "annotations" / "another.jsonl").write_text("")
    after = plan_ingest(ILLUME, [raw / "annotations"])
    assert set(before) < set(after)


def test_bad_lines_become_rejects_and_good_ones_records(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    path = raw / "annotations" / "some_val.jsonl"
    good = json.dumps(line("a")).encode()
    long = json.dumps(line("b", "x" * 3000)).encode()
    lines = [
        b"\xef\xbb\xbf" + good,
        b"",
        b"{broken",
        b"[1]",
        long,
        good.replace(b"circle", b"c\xe9rcle"),
        b"\xff\xfe\x00",
        good,
    ]
    path.write_bytes(b"\n".join(lines))
    config = IngestConfig(source="mine", max_line_bytes=2000)
    rows = ingest(tmp_path / "out", config, [path], [raw / "images"])
    assert [(row["source_row"], row["reject"]) for row in rows] == [
        (0, None), (2, "broken_json"), (3, "bad_schema"), (4, "broken_json"), (5, None), (6, "broken_json"), (7, None),
    ]  # fmt: skip
    assert "c\ufffdrcle" in json.loads(rows[4]["conversations"])[1]["text"]


def test_licence_and_split_come_from_the_metadata_file(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file": "a.png", "license": "MIT", "split": "train"}\n\n')
    rows = ingest(tmp_path / "out", ILLUME, [raw / "annotations"], [raw / "images"], metadata=load_metadata(path))
    assert [(row["license"], row["split"]) for row in rows] == [("MIT", "train"), (None, "val"), (None, "val")]
    path.write_text('{"file": "a.png", "license": 1e400, "split": ["x"]}\n')
    assert load_metadata(path) == {"a.png": {"license": None, "split": None}}
    path.write_text('{"file": "a.png"}\n{"name": "b"}\n')
    with pytest.raises(DataError, match=r"metadata.jsonl:2: expected a JSON object with 'file'"):
        load_metadata(path)


def test_the_published_examples_are_ingested_whole(tmp_path: Path, shared: Path) -> None:
    examples = shared / "data" / "illume_examples" / "train_data_examples"
    for kind, task in (("understanding",) * 2, ("generation",) * 2, ("editing",) * 2, ("pure_text", "text")):
        folder = examples / f"examples_{kind}"
        images = [folder / "images"] if task != "text" else None
        rows = ingest(tmp_path / kind, IngestConfig(source=kind), [folder], images)
        assert [(row["task"], row["reject"]) for row in rows] == [(task, None)]
