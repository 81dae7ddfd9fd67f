import re
from pathlib import Path

from orchestrator.logs.pieces import PieceUploader
from orchestrator.logs.reading import LineFilter, LogReader, by_file, by_time, stage_of_file
from orchestrator.logs.run_logs import RunLogs
from orchestrator.store.store import Store
from tests.orchestrator.conftest import MemoryStore

FIRST, SECOND, THIRD = (f"2025-01-31T08:15:0{number}.000Z INFO stage: " for number in range(3))


def logs_of(store: Store, state: Path) -> RunLogs:
    logs = RunLogs(store=store, state=state, run_id="r")
    logs.folder.mkdir(parents=True, exist_ok=True)
    return logs


def test_stages_are_told_apart_by_the_names_of_files() -> None:
    assert stage_of_file("one-1-1.log") == "one"
    assert stage_of_file("one-more-12-3.worker-7.log") == "one-more"
    assert stage_of_file("notes.log") is None


def test_each_line_is_read_once_and_incomplete_ones_later(local_store: Store, tmp_path: Path) -> None:
    logs = logs_of(local_store, tmp_path)
    file = logs.folder / "one-1-1.log"
    file.write_text(f"{FIRST}a\n  its stack\n{SECOND}b")
    reader = LogReader(logs=logs)
    assert [line.text for line in reader.read_new(is_over=False)] == [f"{FIRST}a", "  its stack"]
    with file.open("a") as stream:
        stream.write(f" goes on\n{THIRD}c")
    assert [line.text for line in reader.read_new(is_over=False)] == [f"{SECOND}b goes on"]
    assert [line.text for line in reader.read_new(is_over=True)] == [f"{THIRD}c"]
    assert reader.read_new(is_over=True) == []


def test_lines_are_filtered_by_stage_time_and_text(local_store: Store, tmp_path: Path) -> None:
    logs = logs_of(local_store, tmp_path)
    (logs.folder / "one-1-1.log").write_text(f"{FIRST}a\n{SECOND}b\n  stack of b\n{THIRD}c\n")
    (logs.folder / "one-more-1-1.log").write_text(f"{SECOND}other\n")
    at_second = 1738311301.0

    def texts(line_filter: LineFilter) -> list[str]:
        return [line.text for line in LogReader(logs=logs, filter=line_filter).read_new(is_over=True)]

    assert texts(LineFilter(stages=["one"], since=at_second)) == [f"{SECOND}b", "  stack of b", f"{THIRD}c"]
    assert texts(LineFilter(pattern=re.compile("b$"))) == [f"{SECOND}b", "  stack of b"]
    assert texts(LineFilter(stages=["one-more"])) == [f"{SECOND}other"]


def test_lines_of_several_files_have_an_order(local_store: Store, tmp_path: Path) -> None:
    logs = logs_of(local_store, tmp_path)
    (logs.folder / "a-1-1.log").write_text(f"{SECOND}b\n")
    (logs.folder / "z-1-1.log").write_text(f"{FIRST}a\n{THIRD}c\n")
    lines = LogReader(logs=logs).read_new(is_over=True)
    assert [line.text[-1] for line in by_time(lines)] == ["a", "b", "c"]
    assert list(by_file(lines)) == ["z-1-1.log", "a-1-1.log"]


def test_a_log_in_a_remote_store_is_followed_from_another_machine(memory_store: MemoryStore, tmp_path: Path) -> None:
    here, there = logs_of(memory_store, tmp_path / "here"), logs_of(memory_store, tmp_path / "there")
    file = here.folder / "one-1-1.log"
    uploader = PieceUploader(memory_store, here.key, file, writer="w1")
    reader, read = LogReader(logs=there), list[str]()
    for number in range(5):
        with file.open("a") as stream:
            stream.write(f"{FIRST}{number}\n")
        uploader.upload_new()
        if number == 3:
            uploader.finish()  # merges its pieces
        read += [line.text for line in reader.read_new(is_over=False)]
    assert read == [f"{FIRST}{number}" for number in range(5)]
