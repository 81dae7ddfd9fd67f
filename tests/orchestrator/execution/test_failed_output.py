"""What a failed attempt found stays open to audit."""

import os
from pathlib import Path

from orchestrator.execution.failed_output import failed_folder, keep_evidence, newest_failed


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
