"""Leftovers of systems and editors are no data; links to folders are followed once."""

from pathlib import Path

import pytest

from data_pipelines.ingest.files.leftovers import files_below, is_leftover


@pytest.mark.parametrize(
    ("name", "leftover"),
    [
        ("a.png", False), ("sub/a.png", False), ("./a.png", False), ("a b [1] (2)#3%20?.png", False),
        ("../a.png", False), (".DS_Store", True), ("sub/._a.png", True),
        (".ipynb_checkpoints/a-checkpoint.jsonl", True), ("a.jsonl~", True),
        ("#a.jsonl#", True), ("~$a.csv", True), (".nfs0001", True), ("__MACOSX/a.png", True), ("a.jsonl.swp", True),
        ("sub/Thumbs.db", True), ("_temporary/0/part-0.parquet", True),
        ("_delta_log/0.json", True), ("@Recycle/a.png", True), ("a.jsonl.orig", True), ("a.png.aria2", True),
        ("original/a.png", False), ("lock.png", False), (".cache/huggingface/x.json", True),
    ],
)  # fmt: skip
def test_leftovers_are_known_by_their_names(name: str, leftover: bool) -> None:
    assert is_leftover(name) == leftover


def test_folders_are_listed_without_leftovers_and_each_once(tmp_path: Path) -> None:
    for name in ("data/b.png", "data/sub/a.png", "data/.git/x", "data/.DS_Store", "other/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "broken.png").symlink_to("absent")  # its record is rejected
    (tmp_path / "data" / "broken.txt").symlink_to("absent")
    assert files_below(tmp_path / "data") == ["b.png", "broken.png", "linked/c.png", "sub/a.png"]
    assert ".DS_Store" in files_below(tmp_path / "data", leftovers=True)
