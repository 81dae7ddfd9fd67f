"""Denied requests, on record: one line of JSON for each, in two files that take turns."""

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orchestrator.redaction.masking import mask_text

log = logging.getLogger(__name__)

NAME = "denied.jsonl"
MAX_BYTES = 5 * 1024**2  # of each of the two files
MAX_TEXT = 200  # characters of what somebody else chose


@dataclass(frozen=True, kw_only=True)
class Denial:
    time: float  # seconds since 1970
    user: str  # empty: nobody signed in
    address: str
    request: str  # method and path
    reason: str


@dataclass(kw_only=True)
class Denials:
    """The record of one service. Thread-safe."""

    folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, denial: Denial) -> None:
        """Never fails: the request is denied either way."""
        request = mask_text(denial.request[:MAX_TEXT])
        line = json.dumps({"format": 1, **asdict(denial), "request": request, "user": denial.user[:MAX_TEXT]})
        log.warning("denied: %s %s: %s", denial.address, request, denial.reason)
        path = self.folder / NAME
        with self._lock:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                if path.exists() and path.stat().st_size > MAX_BYTES:
                    path.replace(path.with_suffix(".1.jsonl"))
                with path.open("a") as file:
                    file.write(f"{line}\n")
            except OSError as error:
                log.warning("denied requests cannot be recorded: %s", error)

    def newest(self, limit: int) -> list[Denial]:
        """The newest first."""
        lines: list[str] = []
        for path in (self.folder / NAME, (self.folder / NAME).with_suffix(".1.jsonl")):
            if path.exists() and len(lines) < limit:
                lines += reversed(path.read_text(errors="replace").splitlines())
        return list(_parsed(lines[:limit]))


def _parsed(lines: list[str]) -> Iterator[Denial]:
    for line in lines:
        try:
            fields = json.loads(line)
            yield Denial(**{name: fields[name] for name in ("time", "user", "address", "request", "reason")})
        except (ValueError, KeyError, TypeError):  # a line that was cut off by a crash
            continue
