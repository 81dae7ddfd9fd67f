"""What a failed attempt found stays open to audit."""

import os
from pathlib import Path

from orchestrator.retention.failed_output import (
    KEPT_S,
    delete_failed,
    failed_folder,
    keep_evidence,
    newest_failed,
    stale_failed,
)


def test_files_are_kept_and_found_by_run_and_stage(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_bytes(b"rows")
    cache = tmp_path / "root" / "cache"
    for number in (1, 2):
        folder = failed_folder(cache, f"run-a-curated-1-{number}")
        said = keep_evidence({"ledger/a.parquet": tmp_path / "ledger"}, folder)
        assert said == f". What it found is kept: illume audit {folder}"
        os.utime(folder, (number, number))
    (tmp_path / "ledger").unlink()
    newest = newest_failed(cache, "run-a", "curated")
    assert newest == folder
    assert (folder / "ledger" / "a.parquet").read_bytes() == b"rows"
    assert newest_failed(cache, "run-a", "other") is None
    assert newest_failed(tmp_path / "nowhere" / "cache", "run-a", "curated") is None


def test_nothing_is_said_where_nothing_is_kept(tmp_path: Path) -> None:
    assert keep_evidence({}, tmp_path / "x") == ""
    assert keep_evidence({"a": tmp_path / "absent"}, tmp_path / "y") == ""


def test_it_is_kept_for_a_week_or_until_a_takedown(tmp_path: Path) -> None:
    cache, folders = tmp_path / "cache", []
    for name, time_s in (("old", 100.0), ("new", 1000.0)):
        (tmp_path / name).write_bytes(b"12345")
        folders.append(failed_folder(cache, name))
        keep_evidence({"ledger/a.parquet": tmp_path / name}, folders[-1])
        os.utime(folders[-1], (time_s, time_s))
    (tmp_path / "old").unlink()
    found = stale_failed(cache, now_s=100.0 + KEPT_S + 1)
    assert [(output.key, output.bytes) for output in found] == [("failed/old", 5)]
    assert [output.bytes for output in stale_failed(cache, now_s=1000.0, before_s=1001.0)] == [0, 5]  # one is a link
    assert delete_failed(found) == found
    assert [folder.exists() for folder in folders] == [False, True]
    assert stale_failed(tmp_path / "nowhere" / "cache", now_s=1e9) == []
