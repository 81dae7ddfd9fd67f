import logging
from pathlib import Path

import pytest

from orchestrator.logs.log_file import LogFile


def test_a_log_that_cannot_be_written_costs_no_work_and_is_said_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    file = LogFile(tmp_path / "logs" / "one.log")
    logger = logging.getLogger("stage")
    logger.addHandler(file)
    logging.getLogger("orchestrator.logs.log_file").addHandler(file)  # as in a run: its report comes back to it
    try:
        for number in range(3):
            logger.warning("line %d", number)
        file.close()
    finally:
        logger.removeHandler(file)
        logging.getLogger("orchestrator.logs.log_file").removeHandler(file)
    said = [record.getMessage() for record in caplog.records if record.name == "orchestrator.logs.log_file"]
    assert len(said) == 2
    assert said[0].endswith("; the work goes on without it")
    assert "lines could not be written and are missing" in said[1]


def test_lines_are_appended(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for text in ("one", "two\nthree"):
        file = LogFile(tmp_path / "new" / "one.log")
        file.append(text)
        file.close()
    assert (tmp_path / "new" / "one.log").read_text() == "one\ntwo\nthree\n"
