"""Every format becomes records; every bad unit a row with its reason; the same input the same bytes."""

import gzip
import hashlib
import io
import json
import lzma
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.archives.tar_writer import TarWriter
from data_pipelines.datasets.records import Reject
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.image_sources import FolderImages, check_name, open_images
from data_pipelines.ingest.shards import (
    load_metadata,
    names_of_images,
    plan_ingest,
)
from data_pipelines.ingest.source_files import find_sources
from tests.data_pipelines.ingest.raw_files import ILLUME, LIMITS, ingest, line, png, raw_folder, reasons


def test_an_annotation_file_becomes_records_with_their_pictures(tmp_path: Path) -> None:
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


def test_a_picture_used_twice_is_stored_once(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw", "a")
    path = raw / "annotations" / "some_val.jsonl"
    path.write_text(json.dumps(line("a")) + "\n" + json.dumps(line("a", "another text")) + "\n")
    rows = ingest(tmp_path / "out", ILLUME, [path], [raw / "images"])
    assert rows[0]["images"] == rows[1]["images"]
    assert rows[0]["sample_id"] != rows[1]["sample_id"]
    assert pq.read_table(tmp_path / "out" / "index" / "some_val.parquet").num_rows == 1


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    digests = []
    for place in ("one", "two/deeper"):
        raw = raw_folder(tmp_path / place / "raw")
        os.utime(raw / "images" / "a.png", (1, len(place)))
        output = tmp_path / place / "out"
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


def test_bad_lines_become_rejects_and_good_ones_go_on(tmp_path: Path) -> None:
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


def test_each_file_is_read_as_what_it_is(tmp_path: Path) -> None:
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
    assert {source.shown: source.format for source in find_sources(ILLUME, [folder / "*"])} == {
        "lines.txt": "illume", "named.jsonl": "webdataset", "packed.bin": "webdataset", "broken.tar": "webdataset",
        "table": "parquet",
    }  # fmt: skip
    rows = ingest(tmp_path / "out", ILLUME, [folder / "*"], [raw / "images"])
    assert Counter(row["reject"] for row in rows) == {None: 6, "broken_tar": 1}
    with pytest.raises(ValueError, match=r"of several formats: 1 of 'illume', 1 of 'webdataset'; say which"):
        find_sources(ILLUME, [folder])
    named = find_sources(IngestConfig(source="mine", format="webdataset"), [folder])
    assert [source.shown for source in named] == ["broken.tar"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../etc/passwd", "path_traversal"),
        ("sub/../../records.jsonl", "path_traversal"),
        ("%2e%2e/%2e%2e/etc/passwd", "path_traversal"),
        ("..\\..\\win.ini", "path_traversal"),
        ("/etc/passwd", "absolute_path"),
        ("C:\\win.ini", "absolute_path"),
        ("//host/share/a.jpg", "absolute_path"),
        ("http://example.com/a.jpg", "remote_url"),
        ("file:///etc/hostname", "remote_url"),
        ("s3://bucket/a.jpg", "remote_url"),
        ("data:image/png;base64,xx", "remote_url"),
        ("", "unsafe_path"),
        (".", "unsafe_path"),
        ("a\x00.jpg", "unsafe_path"),
        ("a" * 5000, "unsafe_path"),
    ],
)
def test_names_that_lead_elsewhere_are_refused_unopened(name: str, reason: str) -> None:
    found = check_name(name)
    assert found is not None
    assert found.reason == reason


def test_links_devices_and_large_files_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "inside.png").symlink_to("real.png")
    (root / "real.png").write_bytes(b"real")
    (root / "loop.png").symlink_to("loop.png")
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "folder.png").mkdir()
    (root / "large.png").write_bytes(bytes(2000))
    os.mkfifo(root / "pipe.png")
    images = FolderImages(root, max_bytes=1000)
    assert images.read("inside.png") == b"real"
    found = {path.name: images.read(path.name) for path in root.iterdir()}
    assert {name: value.reason for name, value in found.items() if isinstance(value, Reject)} == {
        "out.png": "path_traversal", "loop.png": "unsafe_path", "zero.png": "path_traversal",
        "folder.png": "unsafe_path", "large.png": "too_large", "pipe.png": "unsafe_path",
    }  # fmt: skip
    assert images.read("absent.png") == Reject(reason="missing_file", detail="no file 'absent.png'")


def tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    tar = TarWriter(buffer)
    for name, data in members.items():
        tar.add(name, data)
    tar.close()
    return buffer.getvalue()


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


def test_captioned_pictures_serve_several_tasks(tmp_path: Path) -> None:
    path = tmp_path / "part.tar"
    path.write_bytes(tar_bytes({"s1.png": png(1), "s1.txt": b"a red circle"}))
    config = IngestConfig(source="t", format="webdataset", caption_tasks=("understanding", "generation"))
    rows = ingest(tmp_path / "out", config, [path])
    assert [row["task"] for row in rows] == ["understanding", "generation"]
    prompt = json.loads(rows[1]["conversations"])[0]["text"]
    assert prompt == "Generate an image of {resolution_tag}, the content of image is a red circle\n"


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


def test_a_parquet_file_becomes_records_in_shards(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": pa.array([{"bytes": png(n), "path": "x"} for n in range(5)] + [None]),
            "caption": [f"a thing with number {n}" for n in range(5)] + ["no picture"],
            "id": list(range(6)),
        }
    )
    path = tmp_path / "part.parquet"
    pq.write_table(table, path, row_group_size=2)
    config = IngestConfig(source="p", format="parquet", rows_per_shard=4, license="MIT")
    rows = ingest(tmp_path / "out", config, [path])
    assert [(row["external_id"], row["source_row"], row["reject"]) for row in rows] == [
        *((str(n), n, None) for n in range(5)), ("5", 5, "missing_file"),
    ]  # fmt: skip
    assert {row["license"] for row in rows} == {"MIT"}
    path.write_bytes(path.read_bytes()[:300])
    assert [row["reject"] for row in ingest(tmp_path / "cut", config, [path])] == ["broken_parquet"]


@pytest.mark.parametrize("listed", [False, True])
def test_a_parquet_file_may_name_its_pictures(tmp_path: Path, listed: bool) -> None:
    raw = raw_folder(tmp_path / "raw")
    names = ["a.png", "../../etc/passwd", "c.png", "http://example.com/d.png", None, "absent.png"]
    column = "images" if listed else "image_path"
    cells = [[name] if listed and name else name for name in names]
    pq.write_table(pa.table({column: cells, "caption": [f"a circle, number {n}" for n in range(6)]}), tmp_path / "p")
    config = IngestConfig(source="p", rows_per_shard=4)
    rows = ingest(tmp_path / "out", config, [tmp_path / "p"], [raw / "images"])
    assert [row["reject"] for row in rows] == [
        None, "path_traversal", None, "remote_url", "missing_file", "missing_file",
    ]  # fmt: skip
    assert rows[2]["image_names"] == ["c.png"]
    assert [names_of_images(shard, config) for shard in plan_ingest(config, [tmp_path / "p"])] == [
        sorted(filter(None, names[:4])), ["absent.png"],
    ]  # fmt: skip


def test_a_folder_of_pictures_takes_texts_from_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "sub/b.jpg", "c.png")):
        (folder / name).write_bytes(png(number))
    (folder / "a.txt").write_text("a red circle")
    (folder / "sub" / "b.txt").write_text("a blue square")
    rows = ingest(tmp_path / "out", IngestConfig(source="f", format="images", rows_per_shard=2), [folder], [folder])
    assert reasons(rows) == {"a.png": None, "c.png": "caption_missing", "sub/b.jpg": None}


def test_a_folder_of_pictures_without_words_becomes_records_for_an_evaluation_set(tmp_path: Path) -> None:
    folder = tmp_path / "benchmark"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "sub/b.jpg", "c.png")):
        (folder / name).write_bytes(png(number))
    config = IngestConfig(source="bench", format="pictures", rows_per_shard=2)
    rows = ingest(tmp_path / "out", config, [folder], [folder])
    assert reasons(rows) == {"a.png": None, "c.png": None, "sub/b.jpg": None}
    assert {len(row["images"]) for row in rows} == {1}
    assert [names_of_images(shard, config) for shard in plan_ingest(config, [folder])] == [
        ["a.png", "c.png"], ["sub/b.jpg"],
    ]  # fmt: skip


def test_licence_and_split_come_from_the_metadata_file(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file": "a.png", "license": "MIT", "split": "train"}\n\n')
    rows = ingest(tmp_path / "out", ILLUME, [raw / "annotations"], [raw / "images"], metadata=load_metadata(path))
    assert [(row["license"], row["split"]) for row in rows] == [("MIT", "train"), (None, "val"), (None, "val")]
    path.write_text('{"file": "a.png"}\n{"name": "b"}\n')
    with pytest.raises(ValueError, match=r"metadata.jsonl:2: expected a JSON object with 'file'"):
        load_metadata(path)


def test_a_path_that_matches_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing to ingest, expected \.jsonl or \.tar or \.parquet files"):
        plan_ingest(ILLUME, [tmp_path / "*.jsonl"])
    with pytest.raises(FileNotFoundError, match="no such folder or tar of images"):
        open_images([tmp_path / "absent"], **LIMITS)


def test_the_published_examples_are_ingested_whole(tmp_path: Path, shared: Path) -> None:
    examples = shared / "data" / "illume_examples" / "train_data_examples"
    for kind, task in (("understanding",) * 2, ("generation",) * 2, ("editing",) * 2, ("pure_text", "text")):
        folder = examples / f"examples_{kind}"
        images = [folder / "images"] if task != "text" else None
        rows = ingest(tmp_path / kind, IngestConfig(source=kind), [folder], images)
        assert [(row["task"], row["reject"]) for row in rows] == [(task, None)]


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
