"""Trainings that burn money: they mostly wait for data, or hardly use their GPUs, for long enough to say so.

Warns once, and where servers are told to, cancels the run at its commit point; a new submission or `illume resume`
continues it once the cause is gone.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from sqlalchemy import Connection, select

from orchestrator.history.database.schema import attempts, events, stages
from orchestrator.history.events import AttemptState, EventKind
from orchestrator.workspace import Workspace

LOOK_S = 60.0
LASTS_S = 1800.0  # how long it has to last
WAIT_SHARE = 0.5  # of the time of a step
GPU_SHARE = 0.1  # of the time that a GPU is at work; a training that computes is far above
MIN_VALUES = 10  # fewer say nothing
DATA_WAIT = "data_wait_s"  # the metric of a training: seconds that a step waited for its data
GPU_USE = "system/gpu_0_utilization_percentage"  # of the machine of its first worker, where NVML is installed

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Idle:
    """A training whose machines mostly do nothing."""

    run_id: str
    stage_id: str
    attempt_id: str
    why: str


@dataclass(kw_only=True)
class IdleWatcher:
    """Looks at the trainings at work that use accelerators or are told to be watched."""

    notify: Callable[[Workspace, str, str], None]
    stops: bool = False  # stop them, not only warn
    lasts_s: float = LASTS_S
    _looked_at: float = float("-inf")
    _stopped: set[str] = field(default_factory=set)

    def look(self, workspace: Workspace, now: float) -> dict[str, str]:
        if now - self._looked_at < LOOK_S:
            return {}
        self._looked_at = now
        for found in workspace.database.read(lambda connection: idle_trainings(connection, now, self.lasts_s)):
            target = f"{found.run_id}:{found.stage_id}"
            if not self.stops:
                self.notify(
                    workspace, f"run {target} mostly waits ({found.attempt_id})", f"{found.why}\nillume logs {target}"
                )
            elif found.run_id not in self._stopped:
                self._stopped.add(found.run_id)
                self.notify(
                    workspace, f"run {target} is stopped ({found.attempt_id})", f"{found.why}\nillume resume {target}"
                )
                log.warning("run %s: cancelled at its commit point: %s", target, found.why)
                workspace.cancel(found.run_id)
        return {}


def idle_trainings(connection: Connection, now: float, lasts_s: float) -> list[Idle]:
    """Those that were at work for all of the last `lasts_s`, and whose machines did nothing most of that time."""
    at_work = (
        select(attempts, stages.c.waiting_for)
        .join(stages, (stages.c.run_id == attempts.c.run_id) & (stages.c.stage_id == attempts.c.stage_id))
        .where(attempts.c.state == AttemptState.RUNNING, attempts.c.started_at < now - lasts_s)
        .where(attempts.c.unit == "steps", attempts.c.rate_per_s > 0)
    )
    found = []
    for row in connection.execute(at_work).all():
        values = _values(connection, row, now - lasts_s)
        why = why_idle(values[DATA_WAIT], row.rate_per_s, values[GPU_USE])
        if why:
            found.append(Idle(run_id=row.run_id, stage_id=row.stage_id, attempt_id=row.attempt_id, why=why))
    return found


def why_idle(waits_s: Sequence[float], steps_per_s: float, gpu_percents: Sequence[float]) -> str:
    """In which way a training does nothing most of the time; "" if it works, or too few values say so."""
    if len(waits_s) >= MIN_VALUES and (share := min(1.0, median(waits_s) * steps_per_s)) >= WAIT_SHARE:
        return f"its steps wait for data {share:.0%} of their time"
    if len(gpu_percents) >= MIN_VALUES and (share := median(gpu_percents) / 100) < GPU_SHARE:
        return f"its GPU is at work {share:.0%} of the time"
    return ""


def _values(connection: Connection, attempt: Any, since: float) -> Mapping[str, list[float]]:
    """What an attempt reported since then of the two metrics."""
    query = select(events.c.fields).where(
        events.c.run_id == attempt.run_id,
        events.c.attempt_id == attempt.attempt_id,
        events.c.kind == str(EventKind.METRICS),
        events.c.time >= since,
    )
    found: dict[str, list[float]] = {DATA_WAIT: [], GPU_USE: []}
    for row in connection.execute(query):
        for name, value, *_ in json.loads(row.fields).get("points", ()):
            if name in found:
                found[name].append(float(value))
    return found
