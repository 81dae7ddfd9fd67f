"""JSON files of every make become records as far as they can be read."""

import bz2
import gzip
import io
import json
import lzma
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ijson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.counted_files import CountedFiles
from data_pipelines.ingest.readers import json_files
from data_pipelines.ingest.readers.json_files import json_units
from data_pipelines.ingest.shards import plan_ingest
from tests.data_pipelines.ingest.raw_files import ILLUME, ingest, line, raw_folder, reasons


@pytest.mark.parametrize("opening", ["{", "["])
def test_pretty_printed_json_is_read_as_values(tmp_path: Path, opening: str) -> None:
    values = [line("a"), line("b")]
    text = (
        json.dumps(values, indent=2) if opening == "[" else "\n".join(json.dumps(value, indent=2) for value in values)
    )
    raw = raw_folder(tmp_path / "raw")
    path = raw / "annotations" / "some_val.jsonl"
    path.write_text(text)
    assert reasons(ingest(tmp_path / "out", ILLUME, [path], [raw / "images"])) == {"a": None, "b": None}
    path.write_text(text[:-40])
    rows = ingest(tmp_path / "cut", ILLUME, [path], [raw / "images"])
    assert rows[-1]["reject"] == "broken_json"


def test_compressed_lines_are_read_and_a_cut_file_says_so(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw", "abcdef" * 40)
    packed = gzip.compress((raw / "annotations" / "some_val.jsonl").read_bytes())
    path = tmp_path / "part.jsonl.gz"
    path.write_bytes(packed)
    assert len(ingest(tmp_path / "out", ILLUME, [path], [raw / "images"])) == 240
    path.write_bytes(packed[:-30])
    rows = ingest(tmp_path / "cut", ILLUME, [path], [raw / "images"])
    assert (rows[-1]["reject"], rows[-1]["source_row"]) == ("truncated_archive", -1)


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_lines_are_read_from_every_compression(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    raw = raw_folder(tmp_path / "raw", "abcdef" * 400)
    packed = pack((raw / "annotations" / "some_val.jsonl").read_bytes())
    path = tmp_path / "part.jsonl"
    path.write_bytes(packed)
    assert len(ingest(tmp_path / "out", ILLUME, [path], [raw / "images"])) == 2400
    small = IngestConfig(source="mine", max_unpacked_bytes=10_000)
    rows = ingest(tmp_path / "small", small, [path], [raw / "images"])
    assert "more than 10000 bytes" in rows[-1]["detail"]
    assert 10 < len(rows) < 100
    path.write_bytes(packed[:-9])
    rows = ingest(tmp_path / "cut", ILLUME, [path], [raw / "images"])
    assert (rows[-1]["reject"], rows[-1]["source_row"]) == ("truncated_archive", -1)
    assert {row["reject"] for row in rows[:-1]} <= {None}  # a line that was cut is no broken line


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("packed", [False, True])
def test_records_in_wide_characters_are_read(tmp_path: Path, encoding: str, packed: bool) -> None:
    raw = raw_folder(tmp_path / "raw")
    lines = [json.dumps(line(name, f"ein grüner Kreis, 緑の円 {name} 🟢"), ensure_ascii=False) for name in "abc"]
    for text in ("\n".join(lines), f"[{','.join(lines)}]", "[\n" + ",\n".join(lines) + "]\n"):
        path = raw / "annotations" / "some_val.jsonl"
        data = text.encode(encoding)
        path.write_bytes(gzip.compress(data) if packed else data)
        rows = ingest(tmp_path / "out", IngestConfig(source="mine", rows_per_shard=2), [path], [raw / "images"])
        assert reasons(rows) == {"a": None, "b": None, "c": None}
        assert json.loads(rows[2]["conversations"])[1]["text"] == "ein grüner Kreis, 緑の円 c 🟢"


def test_a_list_in_one_line_is_read_as_records_as_far_as_it_goes(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    path = tmp_path / "all.json"
    values = [line(name, 300 * f"a red circle {number} ") for number, name in enumerate("abc" * 40)]
    config = IngestConfig(source="mine", max_line_bytes=9000)
    tight = json.dumps(values)
    for name, text in {"tight": tight, "loose": "\n \n" + tight.replace("}, {", "},\n{")}.items():
        path.write_text(text)
        rows = ingest(tmp_path / name, config, [path], [raw / "images"])
        assert [(row["source_row"], row["external_id"], row["reject"]) for row in rows] == [
            (number, value["id"], None) for number, value in enumerate(values)
        ]
    path.write_text(json.dumps(values)[:-1000])
    rows = ingest(tmp_path / "cut", config, [path], [raw / "images"])
    assert [row["reject"] for row in rows] == [None] * 119 + ["broken_json"]
    path.write_text(json.dumps([*values[:2], {"x": math.nan}, 7, {"x": "y" * 20_000}, values[2]]))
    rows = ingest(tmp_path / "odd", config, [path], [raw / "images"])
    assert [row["reject"] for row in rows] == [None, None, "broken_json", "bad_schema", "bad_schema", None]


def test_one_list_among_lines_is_one_bad_line(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    path = tmp_path / "lines.jsonl"
    path.write_text("[1, 2]\n" + "\n".join(json.dumps(line(name)) for name in "ab"))
    rows = ingest(tmp_path / "out", ILLUME, [path], [raw / "images"])
    assert [(row["source_row"], row["reject"]) for row in rows] == [(0, "bad_schema"), (1, None), (2, None)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5), max_size=6)
    | st.lists(st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text()), max_size=6),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
    st.data(),
)
def test_no_document_stops_the_ingest(value: list[Any], indent: Any, ascii_only: bool, data: st.DataObject) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    cut = data.draw(st.integers(0, len(text)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        for content in (text, text[:cut], text[:cut] + data.draw(st.binary(max_size=5)) + text[cut:]):
            path.write_bytes(content)
            for shard in plan_ingest(ILLUME, [path]):
                list(json_units(shard, ILLUME, CountedFiles(None, digest=str)))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=3),
    max_leaves=8,
)


RECORDS = st.lists(JSON.filter(lambda value: not isinstance(value, list)), max_size=5)  # a list of lists is read as one


@given(RECORDS, st.sampled_from([None, 1]), st.booleans(), st.integers(1, 9))
def test_a_list_has_the_values_that_ijson_finds_wherever_it_is_cut_into_chunks(
    values: list[Any], indent: int | None, ascii_only: bool, chunk_bytes: int
) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "CHUNK_BYTES", chunk_bytes)
        found = [json.loads(value) for value in json_files._values(io.BytesIO(data), 1 << 20)]
    assert found == list(ijson.items(io.BytesIO(data), "item", use_float=True))


@pytest.mark.parametrize("number", ["12", "-0.5", "1.5e10", "1E+5", "2e-7", "true", "null"])
def test_a_bare_value_is_whole_wherever_a_chunk_ends_in_it(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk_bytes in range(1, 20):
        monkeypatch.setattr(json_files, "CHUNK_BYTES", chunk_bytes)
        file = io.BytesIO(f"{number} [{number}, 7]\n{number}".encode())
        assert list(json_files._values(file, 1 << 20)) == [number.encode(), number.encode(), b"7", number.encode()]
