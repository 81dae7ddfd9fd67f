"""What stages and workers print, as lines of their logs.

In the driver, where stages run in threads, standard output and standard error of a stage's thread go to the log of its
attempt (`captured_output`). A worker process has its descriptors 1 and 2 in a file, so that also what libraries and
child processes write is caught, and a process that dies loses nothing; a thread copies it to the log (`OutputTail`).
"""

import contextlib
import contextvars
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from orchestrator.logs.lines import OutputFormatter

log = logging.getLogger(__name__)

TAIL_S = 0.5
MAX_OUTPUT_BYTES = 64 * 1024**2  # of the file with what is printed; it is emptied when all of it is in the log

_print_to: contextvars.ContextVar[Callable[[str], None] | None] = contextvars.ContextVar("print_to", default=None)
_lock = threading.Lock()
_routed: list["_RoutedStream"] = []
_num_captures = 0


class _RoutedStream(io.TextIOBase):
    """Standard output or standard error: lines of a thread whose output is captured go to its log."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._parts: contextvars.ContextVar[str] = contextvars.ContextVar("parts", default="")

    def write(self, text: str) -> int:
        print_to = _print_to.get()
        if print_to is None:
            return self.stream.write(text)
        *lines, rest = (self._parts.get() + text).split("\n")
        self._parts.set(rest)
        for line in lines:
            print_to(line)
        return len(text)

    def flush(self) -> None:
        if _print_to.get() is None:
            self.stream.flush()

    def isatty(self) -> bool:
        return _print_to.get() is None and self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute of the base class
        return self.stream.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # as above
        return self.stream.errors


@contextlib.contextmanager
def captured_output(append: Callable[[str], None]) -> Iterator[None]:
    """Pass what this thread prints to `append`, as lines of a log, until the block ends."""
    formatter = OutputFormatter()

    def print_to(line: str) -> None:
        if formatted := formatter.format(line):
            append(formatted)

    _begin_routing()
    token = _print_to.set(print_to)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _RoutedStream):
                stream.write("\n")  # ends a line that has no end
        _print_to.reset(token)
        _end_routing()


@contextlib.contextmanager
def uncaptured() -> Iterator[None]:
    """What this thread prints in the block goes to the terminal: log lines for people, which the log has already."""
    token = _print_to.set(None)
    try:
        yield
    finally:
        _print_to.reset(token)


def _begin_routing() -> None:
    global _num_captures
    with _lock:
        if _num_captures == 0:
            _routed[:] = [_RoutedStream(sys.stdout), _RoutedStream(sys.stderr)]
            sys.stdout, sys.stderr = _routed
        _num_captures += 1


def _end_routing() -> None:
    global _num_captures
    with _lock:
        _num_captures -= 1
        if _num_captures == 0:
            if sys.stdout is _routed[0]:  # a live view that ended meanwhile has put its own back
                sys.stdout = _routed[0].stream
            if sys.stderr is _routed[1]:
                sys.stderr = _routed[1].stream


class OutputTail:
    """Copies what is added to a file with output to a log. Its position is kept in a file, so another can continue."""

    def __init__(self, path: Path, append: Callable[[str], None]) -> None:
        self._path, self._append = path, append
        self._position_file = path.with_suffix(".position")
        self._formatter = OutputFormatter()
        self._warned = False

    def copy(self, *, is_last: bool = False) -> None:
        """Copy the lines that are complete; with `is_last` also one that has no end."""
        try:
            text = self._position_file.read_text() if self._position_file.exists() else ""
            position = int(text or 0)
            with self._path.open("rb") as file:
                file.seek(position)
                data = file.read()
            size = len(data) if is_last else data.rfind(b"\n") + 1
            for line in data[:size].decode("utf-8", "replace").split("\n"):
                if formatted := self._formatter.format(line):
                    self._append(formatted)
            position += size
            if position >= MAX_OUTPUT_BYTES and position == self._path.stat().st_size:
                os.truncate(self._path, 0)
                position = 0
            if size:
                self._position_file.write_text(str(position))
        except OSError as error:  # tried again
            if not self._warned:
                log.warning("output %s cannot be read: %s", self._path, error)
            self._warned = True


def redirect_output(path: Path) -> None:
    """Send all that this process and its children print to a file. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
