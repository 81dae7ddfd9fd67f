"""Tables with images in their rows or by name: Parquet, and Arrow files as `datasets` saves them."""

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.readers.table_files import holds_all_images
from data_pipelines.ingest.shards import plan_ingest
from tests.data_pipelines.ingest.raw_files import counted_names, ingest, png, raw_folder

CONFIG = IngestConfig(source="p")
CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CHAT = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "a circle"}]
PART = pa.struct([("type", pa.string()), ("text", pa.string()), ("image", CELL)])
PARTS = [
    {"role": "user", "content": [{"type": "image", "image": {"path": "a.png"}}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a circle"}]},
]


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_null_bytes_and_a_path_are_a_name(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    cells = [{"bytes": None, "path": "a.png"}, {"bytes": png(1), "path": "x"}, {"bytes": None, "path": "gone.png"}]
    path = write(tmp_path / "p.parquet", image=pa.array(cells, CELL), caption=["one", "two", "three"])
    rows = ingest(tmp_path / "out", CONFIG, [path], [raw / "images"])
    assert [(row["image_names"], row["reject"]) for row in rows] == [
        (["a.png"], None), (["0"], None), (["gone.png"], "missing_file"),
    ]  # fmt: skip
    assert "no file 'gone.png'" in rows[2]["detail"]
    assert counted_names(CONFIG, [path], [raw / "images"]) == [["a.png", "gone.png"]]


@pytest.mark.parametrize("some_null", [True, False])
def test_empty_bytes_are_never_another_image(tmp_path: Path, some_null: bool) -> None:
    """Beside a name they are as null. Where the file says that no bytes are null, no name is looked up."""
    raw = raw_folder(tmp_path / "raw")
    cells = [{"bytes": b"", "path": "a.png"}, {"bytes": None if some_null else b"x" * 5000, "path": "b.png"}]
    rows = [{"image": cell, "caption": "c"} for cell in cells]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = ingest(tmp_path / "out", IngestConfig(source="m"), [tmp_path / "a.parquet"], [raw / "images"])
    wanted = [None, None] if some_null else ["missing_file", None]
    assert [row["reject"] for row in found] == wanted


@pytest.mark.parametrize("listed", [False, True])
def test_lists_of_images_and_nested_messages_are_read(tmp_path: Path, listed: bool) -> None:
    raw = raw_folder(tmp_path / "raw")
    cells = [[{"bytes": None, "path": "a.png"}], [{"bytes": png(1), "path": None}]]
    turns = [CHAT, CHAT] if listed else [json.dumps(CHAT)] * 2
    path = write(
        tmp_path / "p.parquet", images=pa.array(cells, pa.list_(CELL)), messages=turns, conversations=pa.nulls(2)
    )
    rows = ingest(tmp_path / "out", CONFIG, [path], [raw / "images"])
    assert [(row["image_names"], row["reject"]) for row in rows] == [(["a.png"], None), (["0"], None)]


def test_parts_of_messages_name_images_too(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    turn = pa.struct([("role", pa.string()), ("content", pa.list_(PART))])
    path = write(tmp_path / "p.parquet", messages=pa.array([PARTS], pa.list_(turn)))
    rows = ingest(tmp_path / "out", CONFIG, [path], [raw / "images"])
    assert [(row["image_names"], row["reject"]) for row in rows] == [(["a.png"], None)]
    assert counted_names(CONFIG, [path], [raw / "images"]) == [["a.png"]]


def test_dictionaries_large_and_odd_types_are_read(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    odd = pa.array([2**60, 0], pa.timestamp("us"))  # a year that Python has no date for
    path = write(
        tmp_path / "p.parquet",
        image=pa.array(["a.png", "b.png"]).dictionary_encode(),
        caption=pa.array(["one", "two"], pa.large_string()),
        taken=odd,
        half=pa.array([1.5, None], pa.float16()),
        day=[datetime.date(2020, 1, 1)] * 2,
    )
    rows = ingest(tmp_path / "out", CONFIG, [path], [raw / "images"])
    assert [row["reject"] for row in rows] == [None, None]
    binary = pa.array([b"a \xff red circle", b"two"], pa.binary()).view(pa.string())
    path = write(tmp_path / "q.parquet", image=["a.png", "b.png"], caption=binary)
    rows = ingest(tmp_path / "out2", CONFIG, [path], [raw / "images"])
    assert [row["reject"] for row in rows] == [None, None]
    assert "a \ufffd red circle" in json.loads(rows[0]["conversations"])[1]["text"]


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    path = tmp_path / "p.parquet"
    captions = [f"caption number {n} of a table with many rows" for n in range(40)]
    table = pa.table({"image": ["a.png"] * 40, "caption": captions})
    pq.write_table(table, path, row_group_size=10, compression="zstd")
    group = pq.read_metadata(path).row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = group.data_page_offset + 30
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    rows = ingest(tmp_path / "out", CONFIG, [path], [raw / "images"])
    assert [row["source_row"] for row in rows if row["reject"] is None] == [*range(10), *range(20, 40)]
    assert [row["reject"] for row in rows if row["reject"]] == ["broken_parquet"]


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files_are_read(tmp_path: Path, stream: bool) -> None:
    images = pa.array([{"bytes": png(n), "path": None} for n in range(5)], CELL)
    table = pa.table({"image": images, "text": list("abcde")})
    path = tmp_path / "data-00000-of-00001.arrow"
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    rows = ingest(tmp_path / "out", CONFIG, [path])
    assert [(row["source_row"], row["reject"]) for row in rows] == [(n, None) for n in range(5)]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "broken_parquet" in [row["reject"] for row in ingest(tmp_path / "cut", CONFIG, [path])]


def test_a_file_that_holds_all_images_names_none(tmp_path: Path) -> None:
    def holds(image: Any, **more: Any) -> bool:
        path = write(tmp_path / "x.parquet", image=image, **more)
        (shard,) = plan_ingest(CONFIG, [path])
        return holds_all_images(shard, CONFIG)

    with_bytes = pa.array([{"bytes": b"x", "path": "a"}] * 2, CELL)
    assert holds(with_bytes, caption=["a", "b"])
    assert holds(with_bytes, messages=[CHAT, CHAT])
    assert holds(pa.array([b"x", b"y"]))
    assert not holds(pa.array([{"bytes": b"x", "path": "a"}, {"bytes": None, "path": "b"}], CELL))
    assert not holds(["a", "b"])
    assert not holds(with_bytes, messages=[json.dumps(CHAT)] * 2)


def test_words_in_a_column_of_bytes_are_words(tmp_path: Path) -> None:
    images = pa.array([png(1), png(2), png(3)])
    path = write(tmp_path / "b.parquet", image=images, caption=pa.array(["café".encode(), b"two", None], pa.binary()))
    rows = ingest(tmp_path / "out", CONFIG, [path])
    assert [row["reject"] for row in rows] == [None, None, "caption_missing"]
    assert "café" in json.loads(rows[0]["conversations"])[1]["text"]


def test_of_two_columns_with_one_name_none_is_taken(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([png(1)]), pa.array(["one"]), pa.array(["two"])], ["image", "text", "text"])
    pq.write_table(table, tmp_path / "t.parquet")
    (row,) = ingest(tmp_path / "out", CONFIG, [tmp_path / "t.parquet"])
    assert (row["reject"], row["detail"]) == (
        "ambiguous_sample", "two columns are called 'text'; rename one of them",
    )  # fmt: skip
