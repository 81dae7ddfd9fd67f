"""What attempts at a stage measured: medians of their metrics, and the newest of an event that describes them."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import Connection, Select, select

from orchestrator.artifact import JSON
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, events, runs
from orchestrator.history.events import EventKind

NUM_ATTEMPTS = 5  # the newest that measured something
_EVENTS = 20  # of metrics of an attempt, the newest: a training of weeks has many, of up to 1,000 points each


@dataclass(frozen=True, kw_only=True)
class MeasuredAttempt:
    run_id: str
    metrics: Mapping[str, float]  # medians of its newest values
    fields: Mapping[str, JSON]  # of its newest event of the kind that was asked for


def measured_attempts(
    database: Database, *, recipe: str, stage_id: str, stage_kind: str, names: Collection[str], event: str
) -> Sequence[MeasuredAttempt]:
    """Those at a stage of a recipe that reported any of the metrics and sent the event, newest first.

    How they ended does not matter: what was measured before a failure is true.
    """
    of_stage = (
        select(attempts.c.run_id, attempts.c.attempt_id)
        .join(runs, runs.c.run_id == attempts.c.run_id)
        .where(runs.c.recipe == recipe, attempts.c.stage_id == stage_id, attempts.c.stage_kind == stage_kind)
        .order_by(attempts.c.created_at.desc())
    )

    def work(connection: Connection) -> list[MeasuredAttempt]:
        found: list[MeasuredAttempt] = []
        for run_id, attempt_id in connection.execute(of_stage):

            def newest(kind: str, limit: int, run_id: str = run_id, attempt_id: str = attempt_id) -> list[Any]:
                query = _newest(run_id, stage_id, attempt_id, kind, limit)
                return [json.loads(fields) for fields in connection.execute(query).scalars()]

            described = newest(event, 1)
            values: dict[str, list[float]] = {}
            for fields in newest(EventKind.METRICS, _EVENTS) if described else ():
                for name, value, *_ in fields.get("points", ()):
                    if name in names and math.isfinite(float(value)):
                        values.setdefault(name, []).append(float(value))
            if values:
                medians = {name: median(of_name) for name, of_name in values.items()}
                found.append(MeasuredAttempt(run_id=run_id, metrics=medians, fields=described[0]))
            if len(found) == NUM_ATTEMPTS:
                break
        return found

    return database.read(work)


def _newest(run_id: str, stage_id: str, attempt_id: str, kind: str, limit: int) -> Select[Any]:
    of_attempt = (events.c.run_id == run_id) & (events.c.stage_id == stage_id) & (events.c.attempt_id == attempt_id)
    query = select(events.c.fields).where(of_attempt, events.c.kind == str(kind))
    return query.order_by(events.c.sequence.desc()).limit(limit)
