import sys
import threading
from pathlib import Path

import pytest

from orchestrator.logs import output
from orchestrator.logs.output import OutputTail, captured_output, uncaptured

TOKEN = "hf_" + "aB3dE6gH9" * 4


def texts(lines: list[str]) -> list[str]:
    return [line.partition(" INFO output: ")[2] for line in lines]


def test_what_a_thread_prints_is_in_its_log_and_what_others_print_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []

    def other() -> None:
        sys.stdout.write("by another thread\n")

    with captured_output(lines.append):
        sys.stdout.write("first\nsecond ")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        sys.stderr.write(f"an error {TOKEN}\n")
        with uncaptured():
            sys.stderr.write("for people\n")
        sys.stdout.write("goes on")
    sys.stdout.write("after\n")
    assert texts(lines) == ["first", "an error ***", "second goes on"]
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("by another thread\nafter\n", "for people\n")


def test_two_attempts_at_a_time_print_into_their_own_logs() -> None:
    found: dict[str, list[str]] = {"one": [], "two": []}
    both = threading.Barrier(2)

    def attempt(name: str) -> None:
        with captured_output(found[name].append):
            both.wait(10)
            sys.stdout.write(f"by {name}\n")
            both.wait(10)

    threads = [threading.Thread(target=attempt, args=(name,)) for name in found]
    before = sys.stdout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: texts(lines) for name, lines in found.items()} == {"one": ["by one"], "two": ["by two"]}
    assert sys.stdout is before


def test_another_tail_continues_where_the_first_ended(tmp_path: Path) -> None:
    path, lines = tmp_path / "one.out", list[str]()
    OutputTail(path, lines.append).copy()  # nothing is there yet
    path.write_text("one\ntwo\nincompl")
    OutputTail(path, lines.append).copy()
    assert texts(lines) == ["one", "two"]
    with path.open("a") as file:
        file.write(f"ete {TOKEN}")
    OutputTail(path, lines.append).copy(is_last=True)
    assert texts(lines) == ["one", "two", "incomplete ***"]
    OutputTail(path, lines.append).copy(is_last=True)
    assert len(lines) == 3


def test_the_file_with_output_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MAX_OUTPUT_BYTES", 10)
    path, lines = tmp_path / "one.out", list[str]()
    tail = OutputTail(path, lines.append)
    for number in range(5):
        with path.open("a") as file:
            file.write(f"line {number} of many\n")
        tail.copy()
        assert path.stat().st_size == 0
    assert texts(lines) == [f"line {number} of many" for number in range(5)]
