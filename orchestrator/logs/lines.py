"""The form of a line of a log: `2025-01-31T08:15:00.250Z INFO curate: message`, without secrets.

Every handler of the project uses `LineFormatter`: no text enters a log in another way.
"""

import logging
import re
import time
from datetime import datetime

from orchestrator.redaction.masking import mask_text
from orchestrator.redaction.streams import LineMasker
from orchestrator.times import log_time

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")
_OWN = ("orchestrator.", "stages.", "data_pipelines.", "models.", "clusters.")
OUTPUT = "output"  # in place of a logger: what a program printed


class LineFormatter(logging.Formatter):
    """Gives each line of a message, and of its traceback, its time. Lines that have one, e.g. of a job, keep it."""

    def __init__(self, *, with_time: bool = True) -> None:
        super().__init__("%(message)s")
        self._with_time = with_time

    def format(self, record: logging.LogRecord) -> str:
        text = mask_text(super().format(record))
        if STAMP.match(text):
            return text
        stamp = f"{log_time(record.created)} " if self._with_time else ""
        head = f"{stamp}{record.levelname} {_short_name(record.name)}: "
        return "\n".join(head + line for line in text.splitlines() or [""])


def _short_name(name: str) -> str:
    """Of a module of this project its file, as people search for it; of other loggers the whole name."""
    return name.rpartition(".")[2] if name.startswith(_OWN) else name


class OutputFormatter:
    """Turns what a program prints, line by line, into lines of a log."""

    def __init__(self) -> None:
        self._masker = LineMasker()

    def format(self, line: str) -> str:
        """Of a progress bar, which overwrites its line, the last state. "" for an empty line."""
        text = self._masker.mask(line.rstrip("\r\n").rpartition("\r")[2].rstrip())
        if not text or STAMP.match(text):
            return text
        return f"{log_time(time.time())} INFO {OUTPUT}: {text}"


def time_of_line(line: str) -> float | None:
    """Seconds since 1970; None for a line without a time, which belongs to the one before it."""
    return datetime.fromisoformat(line[:24]).timestamp() if STAMP.match(line) else None
