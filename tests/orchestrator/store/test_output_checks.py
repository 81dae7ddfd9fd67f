import os
from pathlib import Path

import pytest

from orchestrator.store.output_checks import OPEN_FILES, open_for_writing, output_problem


def test_closed_plain_files_are_fine(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "rows.csv").write_text("1")
    assert output_problem(tmp_path) == ""


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="open files are only listed on Linux")
def test_a_file_that_is_open_for_writing_is_found_and_one_that_is_read_is_not(tmp_path: Path) -> None:
    (tmp_path / "read.csv").write_text("1")
    outside = tmp_path.parent / f"{tmp_path.name}-outside.csv"
    with (tmp_path / "read.csv").open(), (tmp_path / "rows.csv").open("a"), outside.open("w"):
        assert open_for_writing(tmp_path) == ["rows.csv"]
        assert output_problem(tmp_path).startswith("rows.csv is still open for writing")
    assert open_for_writing(tmp_path) == []


def test_what_cannot_be_committed_is_found(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: found a link or a special file" in output_problem(tmp_path)
    (tmp_path / "pipe").unlink()
    (tmp_path / "a\\b").write_text("")
    assert "expected parts joined by single '/'" in output_problem(tmp_path)
