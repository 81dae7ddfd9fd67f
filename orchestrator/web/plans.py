"""Stored plans: of each stage what it was asked to do and to use. A plan never changes, so it is kept once read."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.artifacts.run_records import RunRecords
from orchestrator.errors import OrchestratorError
from orchestrator.store.store import Store

MAX_PLANS = 256
S_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class PlannedWork:
    """One stage of a stored plan, as far as every page needs it."""

    stage_id: str
    gpus: float  # of all its workers
    cpus: float
    workers: int


@dataclass(kw_only=True)
class Plans:
    """The newest plans that were asked for. Thread-safe."""

    _known: OrderedDict[str, Mapping[str, PlannedWork]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, store: Store, digest: str) -> Mapping[str, PlannedWork]:
        """By stage; empty if the store is away, or has no such plan."""
        with self._lock:
            found = self._known.get(digest)
            if found is not None:
                self._known.move_to_end(digest)
                return found
        try:
            plan: Mapping[str, Any] | None = RunRecords(store).plan(digest)
            found = {str(stage["id"]): _work(stage) for stage in plan["stages"]} if plan else {}
        except (OrchestratorError, KeyError, TypeError):  # numbers on a list of runs: the run's own page says why
            return {}
        if found:
            with self._lock:
                self._known[digest] = found
                while len(self._known) > MAX_PLANS:
                    self._known.popitem(last=False)
        return found


def _work(stage: Mapping[str, Any]) -> PlannedWork:
    resources = stage["resources"]
    workers = int(resources.get("workers", 1))
    return PlannedWork(
        stage_id=str(stage["id"]),
        gpus=float(resources.get("gpus", 0)) * workers,
        cpus=float(resources.get("cpus", 0)) * workers,
        workers=workers,
    )
