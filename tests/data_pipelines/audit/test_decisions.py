"""Every unit of input has one decision, and the decisions on the deliberately dirty set are those of its truth."""

import io
import json
import runpy
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines.audit.decisions import write_decisions
from data_pipelines.audit.summary import audit_dataset, summary_text
from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.emit import emit_shard, write_dataset
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.ingested_reader import record_shards
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import open_images
from data_pipelines.ingest.files.orphans import merge_orphans, read_orphans, write_orphans
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from models.dualvitok.geometry import PUBLISHED_ANCHORS

CONFIG = CurationConfig(anchors=PUBLISHED_ANCHORS, max_crop=0.5, duplicate_scope="image")


def curated(
    folder: Path, paths: list[Path], images: list[Path], config: CurationConfig = CONFIG, **reading: Any
) -> Path:
    """What the stages `ingest` and `curate` make of an input."""
    ingesting = IngestConfig(source="test", **reading)
    records, work, data = folder / "records", folder / "work", folder / "data"
    source = open_images(images, max_bytes=1 << 26, max_unpacked_bytes=1 << 30) if images else None
    for shard in plan_ingest(ingesting, paths):
        ingest_shard(shard, records, ingesting, images=source)
    write_orphans(sorted((records / "records").glob("*.parquet")), images, records)
    names = record_shards(records)
    for name in names:
        measure_shard(records, name, work, decode_limits(config))
        judge_shard(records, work, name, work, config)
    analyses = {name: work / "analysis" / f"{name}.parquet" for name in names}
    copies = find_duplicates(analyses, config, records=dict.fromkeys(names, records))
    for name in names:
        emit_shard(records, work, name, data, copies=copies[name])
    write_dataset(data, "test", {name: data / "ledger" / f"{name}.parquet" for name in names}, config)
    merge_orphans([records], data)
    return data


def decided(data: Path) -> list[dict[str, Any]]:
    out = data / "decisions.jsonl"
    count = write_decisions(data, out)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == count
    return found


def wrong(shared: Path, truth: str, decisions: list[dict[str, Any]], where: str = "") -> list[Any]:
    """Rows that the dirty set's own scorer does not accept, of all or of one source."""
    dirty = shared / "data" / "dirty"
    rows = [json.loads(text) for text in (dirty / truth).read_text().splitlines()]
    rows = [row for row in rows if not where or row["where"] == where]
    scored = runpy.run_path(str(dirty / "score_dirty.py"))["score"](rows, decisions)
    assert len(scored) == len(rows) > 0
    return [(row["kind"], row["verdict"], found) for row, found, right in scored.values() if not right]


def test_every_row_of_the_dirty_set_is_judged_right(tmp_path: Path, shared: Path) -> None:
    dirty = shared / "data" / "dirty"
    data = curated(tmp_path, [dirty / "records.jsonl"], [dirty / "images"])
    assert wrong(shared, "truth.jsonl", decided(data)) == [
        # One file under two names: it does not matter which of the two is kept, but the scorer wants the second.
        ("mirrored", "mirror-of:r0296", "mirror-of:r0086")
    ]
    assert "6 files that no record names" in summary_text(audit_dataset(data))


def test_every_dirty_tar_is_judged_right_but_for_what_lies_behind_its_end(tmp_path: Path, shared: Path) -> None:
    for path in sorted((shared / "data" / "dirty" / "tars").iterdir()):
        found = decided(curated(tmp_path / path.stem, [path], [], format="webdataset"))
        misses = wrong(shared, "tar_truth.jsonl", found, f"tars/{path.name}")
        # Nothing in a cut tar says how its lost samples were called.
        assert [miss for miss in misses if miss[0] != "after_cut"] == [], path.name


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def line(key: str, image: str) -> str:
    turns = [
        {"from": "human", "value": "<image>\nDescribe the image."},
        {"from": "gpt", "value": f"A grey cloud over the sea, number {key}."},
    ]
    return json.dumps({"id": key, "images": [image], "conversations": turns})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Records over several shards, images in a folder and in a tar, and files that nobody names."""
    folder = tmp_path / "raw"
    (folder / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png", "unused.png"):
        (folder / "images" / name).write_bytes(png(len(name)))
    (folder / "images" / ".hidden").write_bytes(b"")
    with tarfile.open(folder / "more.tar", "w") as tar:
        for name in ("c.png", "lost.png"):
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(png(30))
            tar.addfile(info, io.BytesIO(png(30)))
    lines = [
        line("one", "./a.png"),
        "",
        line("two", "sub//b.png"),
        "{",
        line("three", "c.png"),
        line("four", "../x.png"),
    ]
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_blank_lines_are_skipped_and_orphans_named(raw: Path, tmp_path: Path) -> None:
    config = CurationConfig(anchors=((64, 64),), min_sharpness=0.0, duplicate_scope="off", min_side=32)
    places = [raw / "images", raw / "more.tar"]
    data = curated(tmp_path / "out", [raw / "records.jsonl"], places, config, rows_per_shard=2)
    found = decided(data)
    lines = {row["line"]: row["verdict"] for row in found if row["where"] == "records.jsonl"}
    assert lines == {1: "keep", 2: "skip", 3: "keep", 4: "drop:broken_json", 5: "keep", 6: "drop:path_traversal"}
    orphans = [row["file"] for row in found if row["where"] == "file"]
    assert orphans == ["images/.hidden", "images/unused.png", "more.tar/lost.png"]
    assert all(row["verdict"] == "drop:orphan_file" for row in found if row["where"] == "file")


def test_a_dataset_without_a_list_of_orphans_has_none(tmp_path: Path) -> None:
    assert list(read_orphans(tmp_path)) == []
    assert write_orphans([], [], tmp_path) == 0
    assert merge_orphans([tmp_path, tmp_path], tmp_path) == 0
