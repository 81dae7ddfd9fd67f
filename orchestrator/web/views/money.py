"""What runs have cost so far, as `illume status --cost` counts it: unknown is unknown, never 0."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import queue_records
from orchestrator.history.run_search import AttemptRow
from orchestrator.web.plans import S_PER_HOUR, PlannedWork

Prices = Mapping[str, float | None]  # of an accelerator hour, by stage; None: unknown


@dataclass(frozen=True, kw_only=True)
class Cost:
    gpu_hours: float  # requested accelerators times the time of the attempts; time in a queue is not included
    money: float | None  # None: the price of some of it is not known


def prices_of_runs(database: Database, run_ids: Sequence[str]) -> dict[str, Prices]:
    """As they were on record when each run was submitted; nothing for runs that were started without the queue."""
    query = select(queue_records.c.subject, queue_records.c.record).where(
        queue_records.c.what == "submissions", queue_records.c.subject.in_(run_ids)
    )
    rows = database.read(lambda connection: connection.execute(query).all())
    return {row.subject: _prices(json.loads(row.record)) for row in rows}


def cost_of(attempts: Sequence[AttemptRow], work: Mapping[str, PlannedWork], prices: Prices, now: float) -> Cost:
    """Of these attempts together, until now where they have not ended."""
    hours, money = 0.0, 0.0
    is_known = True
    for row in attempts:
        planned = work.get(row.stage_id)
        if planned is None or not planned.gpus or row.started_at is None:
            continue
        spent = planned.gpus * row.seconds(now) / S_PER_HOUR
        price = prices.get(row.stage_id)
        hours += spent
        money += spent * (price or 0.0)
        is_known = is_known and price is not None
    return Cost(gpu_hours=hours, money=money if is_known else None)


def _prices(submission: Mapping[str, Any]) -> Prices:
    return {str(need["stage_id"]): need.get("price_per_gpu_hour") for need in submission.get("stages", [])}
