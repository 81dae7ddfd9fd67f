"""A file of JSON lines that several processes may append to: each event once, even if a writer is killed."""

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.artifact import JSON
from orchestrator.history.events import Event


class LineFile:
    """Appends at most one line for each event.

    Events of a run come in order, so the sequence number of a run's last line shows which events are in the file. It
    is read back from the file, under a lock on the file, before lines are added.
    """

    def __init__(self, path: Path, *, event_id: Callable[[dict[str, Any]], str | None]) -> None:
        """`event_id` returns the `Event.id` of a line of the file; None: another program wrote the line."""
        self._path = path
        self._event_id = event_id
        self._read_to = 0  # bytes
        self._newest: dict[str, int] = {}  # run id -> sequence number of its last line

    def append(self, lines: Sequence[tuple[Event, dict[str, JSON]]]) -> None:
        """Append the lines that are not in the file yet.

        Raises: OSError: some lines may not be written; append them again.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._read_new_lines(file)
            added = [(event, line) for event, line in lines if event.sequence > self._newest.get(event.run_id, 0)]
            for _event, line in added:
                file.write(json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read_new_lines(self, file: BinaryIO) -> None:
        """Read the lines added since the last call, by any process; truncate a line that was not written completely."""
        size = file.seek(0, os.SEEK_END)
        if size < self._read_to:  # the file was emptied or replaced
            self._read_to, self._newest = 0, {}
        file.seek(self._read_to)
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(self._read_to)
                break
            self._read_to += len(line)
            self._record_sequence(line)
        file.seek(0, os.SEEK_END)

    def _record_sequence(self, line: bytes) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            return  # written by another program
        event_id = self._event_id(found) if isinstance(found, dict) else None
        if event_id is not None:
            run_id, _, sequence = event_id.rpartition("/")
            self._newest[run_id] = max(int(sequence), self._newest.get(run_id, 0))
