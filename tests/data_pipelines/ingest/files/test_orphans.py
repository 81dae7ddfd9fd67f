"""Orphans are the files of image folders and tars that no record names."""

from pathlib import Path

from data_pipelines.ingest.files.orphans import merge_orphans, read_orphans, write_orphans
from tests.data_pipelines.ingest.raw_files import ILLUME, LIMITS, ingest, png, raw_folder, tar_bytes


def orphans_of(folder: Path, images: list[Path]) -> list[str]:
    folder.mkdir(exist_ok=True)
    count = write_orphans(sorted((folder / "records").glob("*.parquet")), images, folder)
    found = list(read_orphans(folder))
    assert count == len(found)
    return found


def test_files_that_no_record_names_are_orphans(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    (raw / "images" / "sub").mkdir()
    (raw / "images" / "sub" / "left.png").write_bytes(png(9))
    (raw / "images" / "notes.txt").write_text("not an image")
    (tmp_path / "more.tar").write_bytes(tar_bytes({"./a.png": png(0), "extra.png": png(8)}))
    images = [raw / "images", tmp_path / "more.tar"]
    ingest(tmp_path / "out", ILLUME, [raw / "annotations"], images)
    assert orphans_of(tmp_path / "out", images) == ["images/notes.txt", "images/sub/left.png", "more.tar/extra.png"]


def test_an_image_named_by_a_rejected_record_is_no_orphan(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw", "a")
    (raw / "images" / "a.png").write_bytes(bytes(2 * LIMITS["max_bytes"]))
    rows = ingest(tmp_path / "out", ILLUME, [raw / "annotations"], [raw / "images"])
    assert [row["reject"] for row in rows] == ["too_large"]
    assert orphans_of(tmp_path / "out", [raw / "images"]) == []


def test_orphans_of_several_folders_are_merged_once_each(tmp_path: Path) -> None:
    for name in ("one", "two"):
        raw = raw_folder(tmp_path / name / "raw", "")
        (raw / "images" / "shared.png").write_bytes(png(1))
        (raw / "images" / f"{name}.png").write_bytes(png(2))
        orphans_of(tmp_path / name, [raw / "images"])
    (tmp_path / "merged").mkdir()
    assert merge_orphans([tmp_path / "one", tmp_path / "two", tmp_path / "none"], tmp_path / "merged") == 3
    assert list(read_orphans(tmp_path / "merged")) == ["images/one.png", "images/shared.png", "images/two.png"]
