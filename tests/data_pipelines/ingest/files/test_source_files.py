"""Input files are found below paths and patterns, each with its own format."""

import json
import lzma
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import open_images
from data_pipelines.ingest.files.source_files import find_sources, folder_content
from data_pipelines.ingest.shards import (
    plan_ingest,
)
from models.errors import DataError
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


def test_files_of_equal_names_are_told_apart_and_one_file_comes_once(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    data = (raw / "annotations" / "some_val.jsonl").read_bytes()
    for folder in ("x/setA", "x/setB", "y/setA"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "part-0.jsonl").write_bytes(data)
    (tmp_path / "other.jsonl").write_bytes(data)
    given = [
        tmp_path / "x" / "setA",
        tmp_path / "x" / "setB",
        f"{tmp_path}/*/setA/part-0.jsonl",
        tmp_path / "other.jsonl",
    ]
    spelled_twice = [*given, f"{tmp_path}/x/./setA/../setA/part-0.jsonl"]
    found = find_sources(ILLUME, spelled_twice)
    assert [source.display_name for source in found] == [
        "other.jsonl", "setB/part-0.jsonl", "x/setA/part-0.jsonl", "y/setA/part-0.jsonl",
    ]  # fmt: skip
    shards = plan_ingest(ILLUME, spelled_twice)
    assert len({shard.name for shard in shards}) == 4
    assert len(ingest(tmp_path / "out", ILLUME, given, [raw / "images"])) == 12


def test_parts_of_a_file_and_a_file_named_like_a_part_are_told_apart(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    lines = (raw / "annotations" / "some_val.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a-00000.jsonl").write_bytes(lines[: lines.index(b"\n") + 1])
    shards = plan_ingest(IngestConfig(source="t", rows_per_shard=2), [tmp_path / "*.jsonl"])
    assert len({shard.name for shard in shards}) == len(shards) == 3


@pytest.mark.parametrize("name", ["set [v2]", "100%", "a#b?c", "it's", "a b", "[x]*"])
def test_the_part_of_a_pattern_that_exists_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    raw = raw_folder(tmp_path / name)
    for pattern in ("*/*.jsonl", "**/*_val.jsonl", "annotations", "annotations/some_[vw]al.jsonl"):
        assert len(find_sources(ILLUME, [raw / pattern])) == 1
    assert len(find_sources(ILLUME, [tmp_path.parent / f"{tmp_path.name[:-1]}?" / name / "*" / "*.jsonl"])) == 1
    with pytest.raises(FileNotFoundError, match=r"brackets are read as a choice of characters, write \[\[\] for one"):
        find_sources(ILLUME, [raw / "other [x]" / "*.jsonl"])


def test_leftovers_are_read_only_where_a_path_names_them(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    annotations = raw / "annotations"
    for name in (".ipynb_checkpoints/some-checkpoint.jsonl", "._some_val.jsonl", ".hidden.jsonl"):
        (annotations / name).parent.mkdir(exist_ok=True)
        (annotations / name).write_bytes(b"{}\n")
    assert [source.display_name for source in find_sources(ILLUME, [annotations, annotations / "*.jsonl"])] == [
        "some_val.jsonl"
    ]
    assert len(find_sources(ILLUME, [annotations / ".hidden.jsonl"])) == 1


def test_a_folder_is_read_as_what_it_holds(tmp_path: Path) -> None:
    def made(*names: str) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(png(1) if name.endswith("png") else b"{}")
        return folder

    def found(folder: Path) -> dict[str, str]:
        return {
            source.display_name.replace(folder.name, "FOLDER"): source.format
            for source in find_sources(ILLUME, [folder])
        }

    pairs = made("a.png", "a.txt", "b.png", "notes.md")
    assert found(pairs) == {"FOLDER": "image_caption_pairs"}
    assert find_sources(ILLUME, [pairs])[0].members == ("a.png", "b.png")
    assert folder_content(pairs).others == ("notes.md",)
    assert found(made("a.jsonl", "img/a.png")) == {"a.jsonl": "illume"}  # whose records name the images
    mixed = made("a.jsonl", "img/a.png", "img/b.png", "img/b.txt")
    assert found(mixed) == {"a.jsonl": "illume", "FOLDER": "image_caption_pairs"}
    assert find_sources(ILLUME, [mixed])[0].members == ("img/b.png",)
    saved = made("train/data-00000-of-00001.arrow", "train/state.json", "train/dataset_info.json", "dataset_dict.json")
    assert found(saved) == {"train/data-00000-of-00001.arrow": "arrow"}
    assert found(made("00000.tar", "00000.parquet", "00000_stats.json")) == {"00000.tar": "webdataset"}
    assert found(made("a.png", "a.json", "b.csv")) == {"b.csv": "csv", "FOLDER": "image_caption_pairs"}


@pytest.mark.parametrize("key", ["_indices_files", "_indices_data_files"])
def test_a_saved_selection_of_rows_is_refused_as_its_files_hold_all_rows(tmp_path: Path, key: str) -> None:
    (tmp_path / "data.arrow").write_bytes(b"ARROW1")
    state = {"_data_files": [{"filename": "data.arrow"}], key: None}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert [source.display_name for source in find_sources(IngestConfig(source="s"), [tmp_path])] == ["data.arrow"]
    (tmp_path / "state.json").write_text(json.dumps({**state, key: [{"filename": "indices.arrow"}]}))
    with pytest.raises(DataError, match=r"a selection of rows .* flatten_indices\(\)"):
        find_sources(IngestConfig(source="s"), [tmp_path])
