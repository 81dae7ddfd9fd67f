"""A file of JSON lines has each event once, whichever process appended it and whenever one was killed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.history.database.database import Database
from orchestrator.history.run_store import RunStore
from orchestrator.sinks.file_sinks import JsonLinesSink

TellStory = Callable[[Database, str], Any]


def lines(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_the_file_of_json_lines_has_each_event_once_after_a_truncated_write(
    database: Database, tell_story: TellStory, tmp_path: Path
) -> None:
    tell_story(database, "r1")
    events = RunStore(database).events("r1")
    path = tmp_path / "deep" / "events.jsonl"
    JsonLinesSink(path).deliver(events[:5])
    with path.open("ab") as file:
        file.write(b'{"id":"r1/00000006","ki')  # killed in the middle of a line
    sink = JsonLinesSink(path)
    sink.deliver(events[3:8])
    sink.deliver(events[6:])
    assert lines(path) == [event.id for event in events]


def test_two_processes_append_to_one_file_without_duplicates(
    database: Database, tell_story: TellStory, tmp_path: Path
) -> None:
    tell_story(database, "r1")
    tell_story(database, "r2")
    store = RunStore(database)
    path = tmp_path / "events.jsonl"
    one, two = JsonLinesSink(path), JsonLinesSink(path)
    one.deliver(store.events("r1")[:4])
    two.deliver(store.events("r2"))
    two.deliver(store.events("r1"))
    one.deliver(store.events("r1"))
    path.unlink()
    one.deliver(store.events("r2"))  # the file was taken away
    assert lines(path) == [event.id for event in store.events("r2")]
