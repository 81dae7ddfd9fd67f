"""Reads the logs of a run, also while they are written, from this machine and from a remote store."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.logs.lines import time_of_line
from orchestrator.logs.run_logs import RunLogs

_OF_ATTEMPT = re.compile(r"(?P<stage>.+)-\d+-\d+(?:\..+)?\.log")  # "curated-1-1.log", "curated-1-1.worker-71.log"


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line of a log. A line without a time of its own has that of the line before it."""

    file: str
    time: float | None  # seconds since 1970
    text: str


@dataclass(frozen=True, kw_only=True)
class LineFilter:
    stages: Collection[str] = ()  # empty: all
    since: float | None = None  # seconds since 1970
    pattern: re.Pattern[str] | None = None

    def matches(self, line: LogLine) -> bool:
        is_late = self.since is None or (line.time is not None and line.time >= self.since)
        return is_late and (self.pattern is None or self.pattern.search(line.text) is not None)

    def wants(self, file: str) -> bool:
        return not self.stages or stage_of_file(file) in self.stages


def stage_of_file(name: str) -> str | None:
    match = _OF_ATTEMPT.fullmatch(name)
    return match["stage"] if match else None


@dataclass(kw_only=True)
class _Open:
    """How far a file was read."""

    position: int = 0  # bytes
    time: float | None = None


@dataclass(kw_only=True)
class LogReader:
    """Reads each line once. `read_new` may be called for as long as the run is at work."""

    logs: RunLogs
    filter: LineFilter = LineFilter()
    _files: dict[str, _Open] = field(default_factory=dict)

    def read_new(self, *, is_over: bool) -> list[LogLine]:
        """The lines that were added since the last call and match, file by file. `is_over`: a line may lack its end.

        Raises: StoreError.
        """
        found: list[LogLine] = []
        for path in self.logs.files(self.filter.wants):
            found += filter(self.filter.matches, self._read(path, is_over=is_over))
        return found

    def _read(self, path: Path, *, is_over: bool) -> Iterable[LogLine]:
        state = self._files.setdefault(path.name, _Open())
        with path.open("rb") as file:
            file.seek(state.position)
            data = file.read()
        size = len(data) if is_over else data.rfind(b"\n") + 1
        state.position += size
        for text in data[:size].decode("utf-8", "replace").splitlines():
            own = time_of_line(text)
            state.time = state.time if own is None else own
            yield LogLine(file=path.name, time=state.time, text=text)


def by_time(lines: Iterable[LogLine], key: Callable[[LogLine], float] | None = None) -> list[LogLine]:
    """The lines of several files in one order."""
    return sorted(lines, key=key or (lambda line: line.time or 0.0))


def by_file(lines: Iterable[LogLine]) -> dict[str, list[LogLine]]:
    """The lines of each file; files in the order in which they began."""
    found: dict[str, list[LogLine]] = {}
    for line in lines:
        found.setdefault(line.file, []).append(line)
    return dict(sorted(found.items(), key=lambda item: item[1][0].time or 0.0))
