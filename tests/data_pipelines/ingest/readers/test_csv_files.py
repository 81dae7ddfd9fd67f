"""CSV and TSV files with a header: a row costs itself alone."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.readers.csv_files import cells_of
from tests.data_pipelines.ingest.raw_files import ingest, raw_folder

Outcome = tuple[str, ...]


def outcomes(folder: Path, data: bytes, config: IngestConfig | None = None) -> list[Outcome]:
    """For each row its picture and words, or the reason why there are none."""
    raw = raw_folder(folder / "raw")
    (folder / "x.csv").write_bytes(data)
    rows = ingest(folder / "out", config or CONFIG, [folder / "x.csv"], [raw / "images"])
    return [
        (row["reject"],) if row["reject"] else (*row["image_names"], json.loads(row["conversations"])[1]["text"])
        for row in rows
    ]


CONFIG = IngestConfig(source="c", max_line_bytes=2000)


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz"])
def test_rows_become_records(tmp_path: Path, ending: str) -> None:
    raw = raw_folder(tmp_path / "raw")
    mark = "\t" if ending == "tsv" else ","
    lines = [["file_name", "text", "license"], ["a.png", '"a ""red"", round\ncircle"', "MIT"], ["b.png", "x", ""]]
    data = "".join(mark.join(cells) + "\r\n" for cells in lines).encode("utf-8-sig")
    path = tmp_path / f"train.{ending}"
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    rows = ingest(tmp_path / "out", CONFIG, [path], [raw / "images"])
    assert [(row["image_names"], row["license"], row["split"], row["reject"]) for row in rows] == [
        (["a.png"], "MIT", "train", None), (["b.png"], None, "train", None),
    ]  # fmt: skip
    assert 'a \\"red\\", round\\ncircle' in rows[0]["conversations"]


def test_a_bad_row_costs_itself(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    path = tmp_path / "x.csv"
    long = b"c.png," + b"x" * 3000
    path.write_bytes(b'image,caption\na.png,"never closed\nb.png,fine\nb.png,two,three\n\n' + long + b"\nc.png,last\n")
    rows = ingest(tmp_path / "out", CONFIG, [path], [raw / "images"])
    assert [(row["image_names"], row["reject"]) for row in rows] == [
        ([], "bad_schema"), (["b.png"], None), ([], "bad_schema"), ([], "bad_schema"), (["c.png"], None),
    ]  # fmt: skip
    assert rows[2]["detail"] == "3 cells, the header has 2"


def test_conversations_may_stand_in_a_cell_as_json(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    turns = '[{""from"": ""human"", ""value"": ""<image>\\nWhat?""}, {""from"": ""gpt"", ""value"": ""a circle""}]'
    path = tmp_path / "x.csv"
    path.write_text(f'image,images,conversations\na.png,,"{turns}"\n,"[""b.png""]","{turns}"\n,,"[{{"\n')
    rows = ingest(tmp_path / "out", CONFIG, [path], [raw / "images"])
    assert [(row["image_names"], row["reject"]) for row in rows] == [
        (["a.png"], None), (["b.png"], None), ([], "broken_json"),
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_tables_in_wide_characters_are_read_and_blank_cells_are_absent(tmp_path: Path, encoding: str) -> None:
    raw = raw_folder(tmp_path / "raw")
    (tmp_path / "a.csv").write_bytes("image,caption,text,file_name\n , ,café,a.png\n".encode(encoding))
    (row,) = ingest(tmp_path / "out", IngestConfig(source="m"), [tmp_path / "a.csv"], [raw / "images"])
    assert (row["reject"], row["image_names"], "caf" in row["conversations"]) == (None, ["a.png"], True)


@pytest.mark.parametrize("data", [b"", b"\n"])
def test_a_file_without_a_header_says_so(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    rows = ingest(tmp_path / "out", CONFIG, [path])
    assert [(row["reject"], row["source_row"]) for row in rows] == [("bad_schema", -1)]


@pytest.mark.parametrize("header", ["Image,Caption", "IMAGE,TEXT", "filepath,title", "File_Name,Title"])
def test_a_header_in_other_letters_is_the_same_header(tmp_path: Path, header: str) -> None:
    raw = raw_folder(tmp_path / "raw")
    (tmp_path / "a.csv").write_text(f"{header}\na.png,some words\n")
    (row,) = ingest(tmp_path / "out", CONFIG, [tmp_path / "a.csv"], [raw / "images"])
    assert (row["reject"], row["image_names"], "some words" in row["conversations"]) == (None, ["a.png"], True)


@pytest.mark.parametrize("header", ["image,caption,caption", "image,Caption,caption", "image,IMAGE,caption"])
def test_of_two_columns_with_one_name_none_is_taken(tmp_path: Path, header: str) -> None:
    raw = raw_folder(tmp_path / "raw")
    (tmp_path / "a.csv").write_text(f"{header}\na.png,b.png,words\n")
    (row,) = ingest(tmp_path / "out", CONFIG, [tmp_path / "a.csv"], [raw / "images"])
    assert (row["reject"], "two columns are called" in row["detail"]) == ("ambiguous_sample", True)


def test_a_column_that_the_config_states_is_taken_beside_one_in_other_letters(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    (tmp_path / "a.csv").write_text("image,Caption,caption\na.png,loud,meant\n")
    stated = IngestConfig(source="c", caption="caption")
    (row,) = ingest(tmp_path / "out", stated, [tmp_path / "a.csv"], [raw / "images"])
    assert (row["reject"], "meant" in row["conversations"]) == (None, True)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("image,caption\na.png,x\u2028y\nb.png,x\x0by\x85\n", [("a.png", "x\u2028y"), ("b.png", "x\x0by\x85")]),
        ('image\tcaption\na.png\ta 12" board\nb.png\ta 5" nail\n', [("a.png", 'a 12" board'), ("b.png", 'a 5" nail')]),
        ('image\tcaption\na.png\t"yes" she said\n', [("a.png", '"yes" she said')]),
        ('image,caption\na.png,"open\nb.png,"whole"\n', [("bad_schema",), ("b.png", "whole")]),
        ('image,caption\na.png,"He said "hi"\nb.png,words\n', [("bad_schema",), ("b.png", "words")]),
        ("image,caption\ra.png,one\rb.png,two", [("a.png", "one"), ("b.png", "two")]),
        ("sep=;\r\nimage;caption\r\na.png;one, two\r\n", [("a.png", "one, two")]),
        ('\ufeff"sep=;"\nimage;caption\na.png;one\n', [("a.png", "one")]),
        ('image;caption;"a, b, and c"\na.png;one;x\n', [("a.png", "one")]),
        ("image,caption\na.png,one\nimage,caption\n", [("a.png", "one"), ("missing_file",)]),
    ],
)  # fmt: skip
def test_tables_as_tools_write_them(tmp_path: Path, data: str, wanted: list[Outcome]) -> None:
    assert outcomes(tmp_path, data.encode()) == wanted


def test_a_first_line_that_names_no_column_is_a_row_of_its_own_and_says_what_was_expected(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    (tmp_path / "x.csv").write_text("a.png,one\nb.png,two\n")
    rows = ingest(tmp_path / "out", CONFIG, [tmp_path / "x.csv"], [raw / "images"])
    assert [(row["source_row"], row["reject"]) for row in rows] == [(-1, "bad_schema"), (0, "bad_schema")]
    assert "the first line is the header, and no column in it is read: 'a.png', 'one'" in rows[0]["detail"]


@pytest.mark.parametrize("column", ["id", "license"])
def test_two_columns_of_ids_or_licences_are_refused(tmp_path: Path, column: str) -> None:
    data = f"image,caption,{column},{column}\na.png,one,x,y\n"
    assert outcomes(tmp_path, data.encode()) == [("ambiguous_sample",)]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\x00")), min_size=2, max_size=5))
def test_cells_are_those_of_a_sound_writer(cells: list[str]) -> None:
    for separator in ",;\t|":
        written = io.StringIO()
        csv.writer(written, delimiter=separator).writerow(cells)
        assert cells_of(written.getvalue(), separator) == (cells, "closed")
