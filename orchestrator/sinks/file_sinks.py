"""Sinks that write events to files: JSON lines for users and tools, and segments of a run's events in the store."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.artifacts.run_records import RunRecords
from orchestrator.history.events import Event, EventKind, event_to_json
from orchestrator.sinks.line_file import LineFile


def file_sink_name(sink_type: str, path: Path) -> str:
    """The name of a sink that writes a file; it contains the host, as the same path on another host is another file."""
    return f"{sink_type} {socket.gethostname()}:{path.absolute()}"


class JsonLinesSink:
    """Appends every event to `path` as one line, once, in order within its run."""

    linger_s = 0.0

    def __init__(self, path: Path) -> None:
        self.name = file_sink_name("jsonl", path)
        self._file = LineFile(path, event_id=_event_id)

    def deliver(self, events: Sequence[Event]) -> None:
        self._file.append([(event, event_to_json(event)) for event in events])


class StoreSink:
    """Writes the events of every run into the store, so that the database can be rebuilt from the store alone.

    A segment may repeat events of an earlier one; readers use their sequence numbers.
    """

    linger_s = 60.0  # each segment is an object: a month-long run that logs every second makes 43,000, not 2.6 million

    def __init__(self, records: RunRecords) -> None:
        self.name = f"store {records.store.url}"
        self._records = records
        self._next: dict[tuple[str, int], int] = {}  # (run id, epoch) -> number of the next segment

    def deliver(self, events: Sequence[Event]) -> None:
        run_id, epoch = events[0].run_id, events[-1].epoch
        for event in events:
            if event.kind == EventKind.RUN_CREATED:
                start = {name: event.fields[name] for name in ("recipe", "plan_digest")}
                self._records.put_run(run_id, {"format": 1, "time": event.time, **start})
        number = self._next.get((run_id, epoch))
        if number is None:
            number = self._records.next_seq(run_id, epoch)
        segment = [event_to_json(event) for event in events]
        while not self._records.append_events(run_id, epoch, number, segment):
            number += 1  # written by another process
        self._next[run_id, epoch] = number + 1


def _event_id(line: dict[str, Any]) -> str | None:
    found = line.get("id")
    return found if isinstance(found, str) and found.rpartition("/")[2].isdigit() else None
