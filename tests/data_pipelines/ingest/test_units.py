"""JSON values are decoded strictly, and captioned images become records of the configured tasks."""

import json
from pathlib import Path

import pytest

from data_pipelines.datasets.records import Record, Reject
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.layouts.captions import caption_records
from data_pipelines.ingest.units import decode_json
from tests.data_pipelines.ingest.raw_files import ingest, png, tar_bytes


def test_captioned_images_serve_several_tasks(tmp_path: Path) -> None:
    path = tmp_path / "part.tar"
    path.write_bytes(tar_bytes({"s1.png": png(1), "s1.txt": b"a red circle"}))
    config = IngestConfig(source="t", format="webdataset", caption_tasks=("understanding", "generation"))
    rows = ingest(tmp_path / "out", config, [path])
    assert [row["task"] for row in rows] == ["understanding", "generation"]
    prompt = json.loads(rows[1]["conversations"])[0]["text"]
    assert prompt == "Generate an image of {resolution_tag}, the content of image is a red circle\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"1 2", "Extra data"),
        (b"NaN", "NaN is not JSON"),
        (b'{"a": Infinity}', "Infinity is not JSON"),
        (b'[{"image": "1.png", "image": "2.png"}]', "the key 'image' stands twice, with two values"),
    ],
)
def test_text_that_is_not_one_strict_json_value_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_json(text)


def test_json_that_is_nested_too_deeply_is_refused() -> None:
    for depth in (200, 10**6):
        with pytest.raises(ValueError, match="nested"):
            decode_json(b"[" * depth + b"]" * depth)


def test_json_with_a_byte_order_mark_or_broken_utf8_is_read() -> None:
    assert decode_json(b"\xef\xbb\xbf[1]") == [1]
    assert decode_json(b'"c\xe9"') == "c\ufffd"
    assert decode_json(b'{"a": 1, "a": 1}') == {"a": 1}
    assert decode_json(b"[" * 90 + b"]" * 90)


def test_a_given_caption_wins_over_one_from_the_fields() -> None:
    config = IngestConfig(source="t")
    fields = {"caption": "from the fields", "license": "MIT"}
    (given,) = caption_records("given\r\n", fields, "a.png", config)
    (stated,) = caption_records(None, fields, "a.png", config)
    assert isinstance(given, Record)
    assert isinstance(stated, Record)
    assert (given.turns[-1][1], stated.turns[-1][1]) == ("given", "from the fields")
    assert (given.license, given.image_names) == ("MIT", ("a.png",))
    assert caption_records(None, {}, "a.png", config) == [
        Reject(reason="caption_missing", detail="the picture 'a.png' has no text")
    ]
