"""Parquet files and folders of images become records."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.ingest.config import IngestConfig
from tests.data_pipelines.ingest.raw_files import counted_names, ingest, png, raw_folder, reasons


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
def test_a_parquet_file_may_name_its_images(tmp_path: Path, listed: bool) -> None:
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
    assert counted_names(config, [tmp_path / "p"]) == [
        sorted(filter(None, names[:4])), ["absent.png"],
    ]  # fmt: skip


def test_a_folder_of_images_takes_captions_from_sidecar_files(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "sub/b.jpg", "c.png")):
        (folder / name).write_bytes(png(number))
    (folder / "a.txt").write_text("a red circle")
    (folder / "sub" / "b.txt").write_text("a blue square")
    rows = ingest(
        tmp_path / "out", IngestConfig(source="f", format="image_caption_pairs", rows_per_shard=2), [folder], [folder]
    )
    assert reasons(rows) == {"a.png": None, "c.png": "caption_missing", "sub/b.jpg": None}


def test_a_folder_of_images_without_words_becomes_records_for_an_evaluation_set(tmp_path: Path) -> None:
    folder = tmp_path / "benchmark"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "sub/b.jpg", "c.png")):
        (folder / name).write_bytes(png(number))
    config = IngestConfig(source="bench", format="images_only", rows_per_shard=2)
    rows = ingest(tmp_path / "out", config, [folder], [folder])
    assert reasons(rows) == {"a.png": None, "c.png": None, "sub/b.jpg": None}
    assert {len(row["images"]) for row in rows} == {1}
    assert counted_names(config, [folder]) == [
        ["a.png", "c.png"], ["sub/b.jpg"],
    ]  # fmt: skip
