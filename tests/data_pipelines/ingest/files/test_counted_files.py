"""What reading opens is counted by the hand that gives it out, and planning counts the same."""

import os
from pathlib import Path

import pytest

from data_pipelines.datasets.records import Reject
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.counted_files import CountedFiles, ImageSources
from data_pipelines.ingest.files.image_sources import FolderSource
from data_pipelines.ingest.formats import count_files
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from models.errors import DataError
from tests.data_pipelines.ingest.raw_files import ILLUME, LIMITS, ingest, png, raw_folder, reasons


def digest(path: Path) -> str:
    from hashlib import sha256

    return sha256(path.read_bytes()).hexdigest()


def test_counting_and_reading_agree_on_all_that_a_name_can_be(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.png").write_bytes(b"a")
    (tmp_path / "root" / "large.png").write_bytes(bytes(50))
    (tmp_path / "out.png").write_bytes(b"secret")
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "out.png")
    source = FolderSource(tmp_path / "root", max_bytes=20)
    counted, read = (CountedFiles(source, digest=digest) for _ in range(2))
    for name in ("a.png", "large.png", "link.png", "../out.png", "absent.png", "\ud800"):
        counted.count(name)
        read.read(name)
    assert counted.counted() == read.counted()
    assert counted.names() == read.names()
    assert isinstance(CountedFiles(None, digest=digest).read("a.png"), Reject)


def test_a_shard_whose_files_changed_after_the_plan_is_not_made(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    (shard,) = plan_ingest(ILLUME, [raw / "annotations"])
    images = ImageSources([raw / "images"], **LIMITS).of(shard)
    files = CountedFiles(images, digest=digest)
    count_files(shard, ILLUME, files)
    ingest_shard(shard, tmp_path / "out", ILLUME, images=images, counted=files.counted())
    (raw / "images" / "a.png").write_bytes(png(77))
    with pytest.raises(DataError, match="the files that it names changed after the plan was made"):
        ingest_shard(shard, tmp_path / "out", ILLUME, images=images, counted=files.counted())


def test_images_are_also_found_beside_the_file_that_names_them(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw", "ab")
    (raw / "images" / "a.png").rename(raw / "annotations" / "a.png")
    (raw / "images" / "b.png").rename(raw / "b.png")
    rows = ingest(tmp_path / "out", ILLUME, [raw])
    assert reasons(rows) == {"a": None, "b": None}


def test_links_of_a_hub_cache_are_followed_to_its_blobs_alone(tmp_path: Path) -> None:
    repo = tmp_path / "datasets--me--set"
    snapshot = repo / "snapshots" / "abc" / "data"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (tmp_path / "secret").write_bytes(png(3))
    for name, data in (("a.png", png(1)), ("a.txt", b"a circle")):
        (repo / "blobs" / f"blob-{name}").write_bytes(data)
        (snapshot / name).symlink_to(os.path.relpath(repo / "blobs" / f"blob-{name}", snapshot))
    (snapshot / "b.png").symlink_to(tmp_path / "secret")
    (snapshot / "b.txt").write_text("b")
    rows = ingest(tmp_path / "out", IngestConfig(source="h"), [repo / "snapshots" / "abc"])
    assert reasons(rows) == {"data/a.png": None, "data/b.png": "path_traversal"}
