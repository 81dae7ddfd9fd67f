"""Reads parts of log files: a gigabyte is never read whole, and of a remote store nothing is copied here.

Places in a log are counted in bytes from its start, which never change while it grows.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.logs.pieces import Piece, list_pieces
from orchestrator.logs.run_logs import RunLogs

BLOCK_BYTES = 1024**2  # of a search, read at once
MAX_LINE_BYTES = 16 * 1024  # of a line that a search shows


@dataclass(frozen=True, kw_only=True)
class LogFileInfo:
    name: str  # "curated-1-1.log", "curated-1-1.worker-71.log"
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Match:
    start: int  # of its line, in bytes
    text: str  # the line


@dataclass(frozen=True, kw_only=True)
class Matches:
    found: tuple[Match, ...]
    scanned_to: int  # bytes; the search goes on there
    is_whole: bool  # the end of the log was reached


@dataclass(frozen=True, kw_only=True)
class LogRange:
    """One log file, opened for reading parts of it."""

    logs: RunLogs
    name: str
    size_bytes: int
    pieces: tuple[Piece, ...] = ()  # in the remote store; empty: it is a file on this machine

    def read(self, start: int, size: int) -> bytes:
        """At most `size` bytes from `start`. Raises: StoreError; FileNotFoundError: it was deleted meanwhile."""
        if not self.pieces:
            with (self.logs.folder / self.name).open("rb") as file:
                file.seek(start)
                return file.read(size)
        found, at, end = b"", 0, start + size
        for piece in self.pieces:
            length = piece.end - piece.start
            if at < end and at + length > start:
                data = self.logs.store.get(f"{self.logs.key}/{piece.name}") or b""
                found += data[max(0, start - at) : end - at]
            at += length
        return found

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, block by block."""
        while start < end and (data := self.read(start, min(BLOCK_BYTES, end - start))):
            yield data
            start += len(data)


def list_logs(logs: RunLogs) -> list[LogFileInfo]:
    """The logs of a run by name, without reading them. Raises: StoreError."""
    sizes = {path.name: path.stat().st_size for path in logs.folder.glob("*.log")} if logs.folder.is_dir() else {}
    if not logs.store.is_local:
        for name, pieces in list_pieces(logs.store, logs.key).items():
            sizes[name] = max(sizes.get(name, 0), _length(pieces))
    return [LogFileInfo(name=name, bytes=size) for name, size in sorted(sizes.items())]


def open_log(logs: RunLogs, name: str) -> LogRange | None:
    """A log of the run; None if it does not exist, or not yet. Raises: StoreError."""
    if name != name.rpartition("/")[2] or not name.endswith(".log"):
        return None
    path = logs.folder / name
    size = path.stat().st_size if path.is_file() else -1
    if not logs.store.is_local:
        pieces = tuple(list_pieces(logs.store, logs.key).get(name, ()))
        if pieces and _length(pieces) > size:  # else it is being written on this machine
            return LogRange(logs=logs, name=name, size_bytes=_length(pieces), pieces=pieces)
    return LogRange(logs=logs, name=name, size_bytes=size) if size >= 0 else None


def lines_around(log: LogRange, start: int, size: int) -> list[Match]:
    """The whole lines of about `size` bytes from `start`; where that cuts the first one, it begins with the next."""
    data = log.read(max(0, start - 1), size + 1) if start else log.read(0, size)
    at = max(0, start - 1)
    if start:
        cut = data.find(b"\n") + 1
        data, at = data[cut:], at + cut
    is_end = start + size >= log.size_bytes
    end = len(data) if is_end else data.rfind(b"\n") + 1 or len(data)
    found = []
    for line in data[:end].split(b"\n"):
        found.append(Match(start=at, text=line.decode("utf-8", "replace")))
        at += len(line) + 1
    return found[:-1] if found and not found[-1].text else found


def search_log(
    log: LogRange,
    text: str,
    *,
    start: int,
    limit: int,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Matches:
    """The lines from `start` in which a text stands, in any case, until there are `limit` or the time is over."""
    pattern = re.compile(re.escape(text.encode()), re.IGNORECASE)
    found: list[Match] = []
    at, deadline = start, clock() + budget_s
    while at < log.size_bytes and len(found) < limit:
        block = log.read(at, BLOCK_BYTES)
        is_end = at + len(block) >= log.size_bytes
        whole = block if is_end or b"\n" not in block else block[: block.rfind(b"\n") + 1]
        if not whole:
            break
        at = _add_matches(found, whole, at, pattern, limit)
        if clock() >= deadline:
            break
    return Matches(found=tuple(found), scanned_to=at, is_whole=at >= log.size_bytes)


def _add_matches(found: list[Match], data: bytes, at: int, pattern: re.Pattern[bytes], limit: int) -> int:
    """Adds the matching lines of `data`, which stands at `at`; returns where the search goes on."""
    position = 0
    while match := pattern.search(data, position):
        begin = data.rfind(b"\n", 0, match.start()) + 1
        end = data.find(b"\n", match.end())
        end = len(data) if end < 0 else end
        line = data[begin : min(end, begin + MAX_LINE_BYTES)]
        found.append(Match(start=at + begin, text=line.decode("utf-8", "replace")))
        position = end + 1
        if len(found) >= limit:
            return at + position
    return at + len(data)


def _length(pieces: Sequence[Piece]) -> int:
    return sum(piece.end - piece.start for piece in pieces)
