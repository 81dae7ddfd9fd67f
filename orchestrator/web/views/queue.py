"""The queue: what goes next and why it waits, who looks after it, and what may be spent."""

import socket
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.history.database.database import Database
from orchestrator.queue.entries import open_entries
from orchestrator.queue.looking import Place, places
from orchestrator.queue.records import Budget
from orchestrator.queue.rows import newest
from orchestrator.queue.servers import live_servers
from orchestrator.scheduler.lasting import left_s
from orchestrator.web.addresses import link


@dataclass(frozen=True, kw_only=True)
class QueueRow:
    """A run in the queue."""

    run: str
    recipe: str
    person: str
    priority: int
    state: str
    pool: str
    position: int | None  # 1: it goes next on its pool; None: it has a driver
    waits_for: str
    expected_start: float | None  # seconds since 1970
    gpus: float  # of the stage that would start first
    link: str


@dataclass(frozen=True, kw_only=True)
class BudgetRow:
    """What may be spent in a calendar month."""

    subject: str
    gpu_hours: float | None  # None: no limit
    money: float | None
    currency: str
    set_by: str


@dataclass(frozen=True, kw_only=True)
class QueueView:
    runs: tuple[QueueRow, ...]  # those with a driver first, then who goes next
    budgets: tuple[BudgetRow, ...]
    servers: tuple[str, ...]  # that start what waits; none: it waits until one is started


def load_queue(database: Database) -> QueueView:
    """As the database knows the queue; a server copies into it what is in the store alone."""
    entries = open_entries(database)
    lasts_s = {entry.run_id: left_s(database, entry.submission) for entry in entries}
    found = places(database, entries, machine=f"machine {socket.gethostname()}", lasts_s=lasts_s)
    return QueueView(
        runs=tuple(map(_row, found)),
        budgets=tuple(_budgets(newest(database, Budget).items())),
        servers=tuple(live_servers(database)),
    )


def _row(place: Place) -> QueueRow:
    entry = place.entry
    return QueueRow(
        run=entry.run_id,
        recipe=entry.submission.recipe,
        person=entry.submission.person,
        priority=entry.priority,
        state=entry.state,
        pool=place.pool,
        position=place.position,
        waits_for=place.waits_for,
        expected_start=place.expected_start,
        gpus=entry.next_stage.gpus,
        link=link("runs", entry.run_id),
    )


def _budgets(records: Iterable[tuple[str, Budget]]) -> Iterable[BudgetRow]:
    for subject, budget in records:
        if budget.limits.is_set:
            yield BudgetRow(
                subject=subject,
                gpu_hours=budget.limits.gpu_hours,
                money=budget.limits.money,
                currency=budget.currency,
                set_by=budget.by.name,
            )
