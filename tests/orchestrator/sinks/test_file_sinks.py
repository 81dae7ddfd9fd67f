"""The file sinks: the store has every event, and a file sink's name identifies its host."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.run_records import RunRecords
from orchestrator.history.database.database import Database
from orchestrator.history.run_store import RunStore
from orchestrator.sinks.file_sinks import StoreSink, file_sink_name
from orchestrator.store.store import open_store

TellStory = Callable[[Database, str], Any]


def test_the_store_has_every_event_even_if_some_are_delivered_again(
    database: Database, tell_story: TellStory, tmp_path: Path
) -> None:
    tell_story(database, "r1")
    events = RunStore(database).events("r1")
    records = RunRecords(open_store(tmp_path / "store"))
    StoreSink(records).deliver(events[:7])  # and died before its cursor moved
    again = StoreSink(records)
    again.deliver(events[:9])
    StoreSink(records).deliver(events[9:11])
    again.deliver(events[9:])
    found = {event["sequence"] for event in records.events("r1")}
    assert found == set(range(1, len(events) + 1))
    ((run_id, start),) = list(records.runs())
    assert (run_id, start["recipe"], start["plan_digest"]) == ("r1", "tiny", "d" * 64)


def test_the_name_of_a_file_sink_has_the_host_and_the_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert file_sink_name("jsonl", Path("events")) == f"jsonl {socket.gethostname()}:{tmp_path / 'events'}"
