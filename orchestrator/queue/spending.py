"""What runs have spent so far: accelerator hours and money, of retries, and of work that was lost.

Derived from the attempts and the resources on record when they began. Money is counted where the price was on record
when the run was submitted; otherwise it is unknown, never 0.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, database_now, events
from orchestrator.history.events import AttemptState, EventKind
from orchestrator.queue.records import Limits, Submission

WARN_SHARE = 0.8
LOST = (AttemptState.FAILED, AttemptState.LOST)


@dataclass(frozen=True, kw_only=True)
class AttemptCost:
    run_id: str
    stage_id: str
    number: int  # of the attempt at its stage, from 1
    state: str
    gpu_hours: float
    cpu_hours: float
    money: float | None  # None: no price is known

    @property
    def is_lost(self) -> bool:
        """It failed or was lost; a part of its work may be in checkpoints and shards."""
        return self.state in LOST


@dataclass(frozen=True, kw_only=True)
class Spent:
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    money: float | None = 0.0


def total_of(costs: Collection[AttemptCost]) -> Spent:
    money = [cost.money for cost in costs if cost.gpu_hours]
    return Spent(
        gpu_hours=sum(cost.gpu_hours for cost in costs),
        cpu_hours=sum(cost.cpu_hours for cost in costs),
        money=None if None in money else sum(amount for amount in money if amount is not None),
    )


def retries(costs: Sequence[AttemptCost]) -> list[AttemptCost]:
    return [cost for cost in costs if cost.number > 1]


def lost(costs: Sequence[AttemptCost]) -> list[AttemptCost]:
    return [cost for cost in costs if cost.is_lost]


def costs_of(
    database: Database,
    submissions: Mapping[str, Submission],
    *,
    runs: Collection[str] | None = None,
    since: float = 0.0,
) -> list[AttemptCost]:
    """Of the attempts of some runs, or of all, that were at work after `since`; only the time after it counts."""

    def work(connection: Connection) -> list[AttemptCost]:
        now: float = connection.execute(select(database_now())).scalar_one()
        begun = attempts.c.started_at.is_not(None)
        query = select(attempts).where(begun, (attempts.c.ended_at.is_(None)) | (attempts.c.ended_at > since))
        if runs is not None:
            query = query.where(attempts.c.run_id.in_(list(runs)))
        rows = connection.execute(query.order_by(attempts.c.run_id, attempts.c.started_at)).all()
        resources = _resources(connection, {row.run_id for row in rows})
        return [
            _cost(row, resources.get(row.attempt_id, {}), submissions.get(row.run_id), since=since, now=now)
            for row in rows
        ]

    return database.read(work)


def share_spent(spent: Spent, limits: Limits) -> float:
    """Of the limit that is reached first; 0: there is none. Money that is unknown counts nothing."""
    shares = [0.0]
    if limits.gpu_hours is not None:
        shares.append(spent.gpu_hours / limits.gpu_hours)
    if limits.money is not None and spent.money is not None:
        shares.append(spent.money / limits.money)
    return max(shares)


def spent_text(spent: Spent, limits: Limits) -> str:
    """For people: `12.5 of 20 GPU hours`."""
    parts = []
    if limits.gpu_hours is not None:
        parts.append(f"{spent.gpu_hours:,.4g} of {limits.gpu_hours:g} GPU hours")
    if limits.money is not None:
        found = "an unknown sum" if spent.money is None else f"{spent.money:,.4g}"
        parts.append(f"{found} of {limits.money:g} in money")
    return ", ".join(parts)


def _resources(connection: Connection, run_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """By attempt what it asked for."""
    query = select(events.c.attempt_id, events.c.fields).where(
        events.c.run_id.in_(list(run_ids)), events.c.kind == str(EventKind.ATTEMPT_STATE)
    )
    found = {}
    for row in connection.execute(query):
        fields = json.loads(row.fields)
        if fields.get("to") == AttemptState.INTENT and isinstance(fields.get("resources"), dict):
            found[row.attempt_id] = fields["resources"]
    return found


def _cost(
    row: Any, resources: Mapping[str, Any], submission: Submission | None, *, since: float, now: float
) -> AttemptCost:
    hours = max(0.0, (row.ended_at or now) - max(row.started_at, since)) / 3600
    workers = float(resources.get("workers", 1))
    gpu_hours = hours * workers * float(resources.get("gpus", 0.0))
    prices = {need.stage_id: need.price_per_gpu_hour for need in submission.stages} if submission else {}
    price = prices.get(row.stage_id)
    return AttemptCost(
        run_id=row.run_id,
        stage_id=row.stage_id,
        number=row.number,
        state=row.state,
        gpu_hours=gpu_hours,
        cpu_hours=hours * workers * float(resources.get("cpus", 0.0)),
        money=0.0 if not gpu_hours else None if price is None else gpu_hours * price,
    )
