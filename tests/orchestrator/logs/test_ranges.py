from pathlib import Path

import pytest

from orchestrator.logs.pieces import PieceUploader
from orchestrator.logs.ranges import LogRange, Match, lines_around, list_logs, open_log, search_log
from orchestrator.logs.run_logs import RunLogs
from orchestrator.store.store import Store

TEXT = b"".join(b"line %03d\n" % number for number in range(100))  # 9 bytes each


def logs_with(store: Store, tmp_path: Path, data: bytes) -> RunLogs:
    """The logs of a run, of which one is complete: in a remote store, and not on this machine any more."""
    logs = RunLogs(store=store, state=tmp_path / "state", run_id="r1")
    logs.folder.mkdir(parents=True, exist_ok=True)
    path = logs.folder / "clean-1-1.log"
    path.write_bytes(data)
    if not store.is_local:
        uploader = PieceUploader(store, logs.key, path, writer="20250131T081500250")
        uploader.upload_new()
        path.unlink()
    return logs


@pytest.fixture
def log(store: Store, tmp_path: Path) -> LogRange:
    found = open_log(logs_with(store, tmp_path, TEXT), "clean-1-1.log")
    assert found is not None
    return found


def test_any_part_is_read(log: LogRange) -> None:
    assert log.size_bytes == 900
    assert log.read(9, 9) == b"line 001\n"
    assert log.read(891, 100) == b"line 099\n"
    assert b"".join(log.chunks(0, 900)) == TEXT
    assert [(info.name, info.bytes) for info in list_logs(log.logs)] == [("clean-1-1.log", 900)]


def test_lines_begin_at_lines(log: LogRange) -> None:
    assert lines_around(log, 0, 18) == [Match(start=0, text="line 000"), Match(start=9, text="line 001")]
    assert lines_around(log, 9, 9) == [Match(start=9, text="line 001")]
    assert lines_around(log, 10, 20) == [Match(start=18, text="line 002")], "the cut ones are left out"
    assert [match.text for match in lines_around(log, 882, 100)] == ["line 098", "line 099"]


def test_a_search_finds_lines_with_their_places_and_goes_on(log: LogRange) -> None:
    first = search_log(log, "LINE 01", start=0, limit=3, budget_s=60)
    assert [match.start for match in first.found] == [90, 99, 108]
    assert not first.is_whole
    rest = search_log(log, "LINE 01", start=first.scanned_to, limit=100, budget_s=60)
    assert [match.text for match in rest.found] == [f"line 01{number}" for number in range(3, 10)]
    assert rest.is_whole
    assert search_log(log, "line.0", start=0, limit=3, budget_s=60).found == ()


def test_a_search_ends_when_its_time_is_over(log: LogRange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.logs.ranges.BLOCK_BYTES", 90)
    now = iter([0.0, 0.0, 2.0])
    found = search_log(log, "line", start=0, limit=1000, budget_s=1.0, clock=lambda: next(now))
    assert len(found.found) == 20
    assert found.scanned_to == 180
    assert not found.is_whole


@pytest.mark.parametrize("name", ["clean-9-9.log", "../r2/logs/clean-1-1.log", "STORE.json", "a/b.log", ""])
def test_what_is_no_log_of_the_run_is_not_opened(log: LogRange, name: str) -> None:
    assert open_log(log.logs, name) is None
