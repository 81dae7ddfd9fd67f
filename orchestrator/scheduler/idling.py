"""Trainings that burn money: most of their time goes into waiting for data, for long enough to say so.

Warns once, and where servers are told to, cancels the run at its commit point; a new submission or `illume resume`
continues it once the cause is gone.
"""

import json
import logging
from collections.abc import Callable, Sequence
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
MIN_STEPS = 10
DATA_WAIT = "data_wait_s"  # the metric of a training: seconds that a step waited for its data

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Idle:
    """A training that mostly waits."""

    run_id: str
    stage_id: str
    attempt_id: str
    share: float  # of the time of its steps that they wait for data


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
            text = f"its steps wait for data {found.share:.0%} of their time"
            if not self.stops:
                self.notify(
                    workspace, f"run {target} mostly waits ({found.attempt_id})", f"{text}\nillume logs {target}"
                )
            elif found.run_id not in self._stopped:
                self._stopped.add(found.run_id)
                self.notify(
                    workspace, f"run {target} is stopped ({found.attempt_id})", f"{text}\nillume resume {target}"
                )
                log.warning("run %s: cancelled at its commit point: %s", target, text)
                workspace.cancel(found.run_id)
        return {}


def idle_trainings(connection: Connection, now: float, lasts_s: float) -> list[Idle]:
    """Those that were at work for all of the last `lasts_s` and waited for data most of that time."""
    at_work = (
        select(attempts, stages.c.waiting_for)
        .join(stages, (stages.c.run_id == attempts.c.run_id) & (stages.c.stage_id == attempts.c.stage_id))
        .where(attempts.c.state == AttemptState.RUNNING, attempts.c.started_at < now - lasts_s)
        .where(attempts.c.unit == "steps", attempts.c.rate_per_s > 0)
    )
    found = []
    for row in connection.execute(at_work).all():
        share = wait_share(_waits(connection, row, now - lasts_s), row.rate_per_s)
        if share >= WAIT_SHARE:
            found.append(Idle(run_id=row.run_id, stage_id=row.stage_id, attempt_id=row.attempt_id, share=share))
    return found


def wait_share(waits_s: Sequence[float], steps_per_s: float) -> float:
    """The share of the time of a step that it waits for data; 0 where too few steps say so."""
    return min(1.0, median(waits_s) * steps_per_s) if len(waits_s) >= MIN_STEPS else 0.0


def _waits(connection: Connection, attempt: Any, since: float) -> list[float]:
    query = select(events.c.fields).where(
        events.c.run_id == attempt.run_id,
        events.c.attempt_id == attempt.attempt_id,
        events.c.kind == str(EventKind.METRICS),
        events.c.time >= since,
    )
    points = [point for row in connection.execute(query) for point in json.loads(row.fields).get("points", ())]
    return [float(value) for name, value, *_ in points if name == DATA_WAIT]
