"""A local log file. Work is worth more than its log: what cannot be written is counted, and said once."""

import contextlib
import logging
import os
from pathlib import Path

from orchestrator.logs.lines import LineFormatter

log = logging.getLogger(__name__)


class LogFile(logging.Handler):
    """Appends log records, and lines that are formatted already, to a file. Never raises for a file it cannot write.

    Makes no folder: below a mount that is away nobody would find it again.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self.path = path
        self.num_lost = 0  # lines
        self._descriptor: int | None = None
        self._is_reporting = False
        self.setFormatter(LineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.append(self.format(record))

    def append(self, text: str) -> None:
        """Append one or more lines; `text` has no line end at its end."""
        self.acquire()
        try:
            self._append((text + "\n").encode("utf-8", "replace"))
        except OSError as error:
            self.num_lost += text.count("\n") + 1
            self._report(error)
        finally:
            self.release()

    def fileno(self) -> int:
        """The descriptor, for what writes past Python, such as stack dumps. Raises: OSError: it cannot be opened."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        return self._descriptor

    def close(self) -> None:
        super().close()
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
        if self.num_lost:
            log.warning("log %s: %d lines could not be written and are missing", self.path, self.num_lost)
            self.num_lost = 0

    def _append(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.fileno(), data) :]

    def _report(self, error: OSError) -> None:
        """Once, and to the other handlers: the report itself would come back here."""
        if self._is_reporting or self.num_lost > 1:
            return
        self._is_reporting = True
        try:
            log.warning("log %s cannot be written: %s; the work goes on without it", self.path, error)
        finally:
            self._is_reporting = False
