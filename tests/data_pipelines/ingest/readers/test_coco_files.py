"""COCO captions: images and annotations of one object, on one line or on many."""

import json
from pathlib import Path

import pytest

from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.readers.coco_files import may_be_coco
from tests.data_pipelines.ingest.raw_files import counted_names, ingest, line, raw_folder, reasons

COCO = {
    "info": {"year": 2014},
    "licenses": [{"id": 3, "name": "CC-BY"}],
    "images": [{"id": 1, "file_name": "a.png", "license": 3}, {"id": 2, "file_name": "b.png"}, {"id": 4}],
    "annotations": [
        {"id": 9, "image_id": 1, "caption": "a red circle"},
        {"id": 8, "image_id": 1, "caption": "a round thing"},
        {"id": 7, "image_id": 5, "caption": "nobody's"},
        {"id": 6, "image_id": 2, "bbox": [1, 2, 3, 4]},
    ],
}


@pytest.mark.parametrize(("indent", "max_line_bytes"), [(None, 8 << 20), (1, 8 << 20), (None, 100)])
def test_images_and_their_captions_become_records(tmp_path: Path, indent: int | None, max_line_bytes: int) -> None:
    raw = raw_folder(tmp_path / "raw")
    path = tmp_path / "captions_val2014.json"
    path.write_text(json.dumps(COCO, indent=indent))
    config = IngestConfig(source="c", max_line_bytes=max_line_bytes, rows_per_shard=1)
    rows = ingest(tmp_path / "out", config, [path], [raw / "images"])
    assert reasons(rows) == {"1": None, "2": "caption_missing", None: "missing_file"} | {None: "missing_file"}
    assert [row["source_row"] for row in rows] == [0, 1, 2, 3]
    assert (rows[0]["license"], rows[0]["split"], rows[0]["image_names"]) == ("CC-BY", "val", ["a.png"])
    assert json.loads(rows[0]["conversations"])[1]["text"] in ("a red circle", "a round thing")
    assert counted_names(config, [path], [raw / "images"]) == [["a.png"]]
    every = IngestConfig(source="c", caption_choice="all", caption="other")
    assert sum(row["reject"] is None for row in ingest(tmp_path / "all", every, [path], [raw / "images"])) == 2


def test_lines_of_records_are_not_taken_for_coco() -> None:
    assert may_be_coco(b'\xef\xbb\xbf{ "info" : {')
    assert not may_be_coco(json.dumps({"images": ["a"], **line("a")}).encode())
    assert not may_be_coco(b'{"id": 1, "images": []}')


def test_two_images_of_one_id_get_no_words(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    images = [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}, {"id": 2, "file_name": "c.png"}]
    words = [{"image_id": 1, "caption": "whose?"}, {"image_id": 2, "caption": "a blue circle"}]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"images": images, "annotations": words}))
    rows = ingest(tmp_path / "out", IngestConfig(source="c"), [path], [raw / "images"])
    assert [row["reject"] for row in rows] == ["ambiguous_sample", "ambiguous_sample", None]
