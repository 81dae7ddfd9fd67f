"""What was found out about runs that have ended, for as long as nothing is added to them."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from orchestrator.history.run_status import RunSummary
from orchestrator.liveness.liveness import UNFINISHED

T = TypeVar("T")
MAX_RUNS = 2000


@dataclass(kw_only=True)
class Versions(Generic[T]):
    """One value for each run, of the newest version that was seen. Thread-safe.

    Rule: every change of a run is an event, so that a run with the same last event is the same. Of runs that have not
    ended nothing is kept: progress changes their rows without an event.
    """

    _known: OrderedDict[str, tuple[tuple[int, str, float], T]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, run: RunSummary) -> T | None:
        with self._lock:
            found = self._known.get(run.run_id)
            if found is None or found[0] != _version(run):
                return None
            self._known.move_to_end(run.run_id)
            return found[1]

    def put(self, run: RunSummary, value: T) -> None:
        if run.state in UNFINISHED:
            return
        with self._lock:
            self._known[run.run_id] = (_version(run), value)
            self._known.move_to_end(run.run_id)
            while len(self._known) > MAX_RUNS:
                self._known.popitem(last=False)


def _version(run: RunSummary) -> tuple[int, str, float]:
    return (run.last_event, run.state, run.updated_at)
