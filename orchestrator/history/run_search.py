"""Queries over many runs: a filtered list, their attempts, who started them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, union_all

from orchestrator.history.actors import ActorRecord, actor_of
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, events, runs, stages
from orchestrator.history.events import AttemptState, Event, EventKind, RunState
from orchestrator.history.projection import event_from_row
from orchestrator.history.run_status import RunSummary, summary_of_row

REPORTS = (EventKind.METRICS, EventKind.PROGRESS, "shards_done", "shards_finished")  # kinds that say that work goes on


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """What is not set is not asked for."""

    ids: tuple[str, ...] = ()
    states: tuple[RunState, ...] = ()
    recipe: str = ""  # the whole name
    owner: str = ""  # the user, or the name of the token, who created it
    text: str = ""  # a part of the id, of the recipe's name, of the message or of a stage's name
    before: tuple[float, str] | None = None  # creation time and id: only older runs


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    """An attempt, as the history has it."""

    attempt_id: str
    run_id: str
    stage_id: str
    number: int
    epoch: int
    state: AttemptState
    fingerprint: str
    failure_class: str
    message: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    done: int
    total: int
    unit: str
    rate_per_s: float

    def seconds(self, now: float) -> float:
        """How long it has taken, until now if it has not ended."""
        return max(0.0, (self.ended_at or now) - (self.started_at or self.created_at))


def search_runs(database: Database, wanted: RunFilter, *, limit: int) -> list[RunSummary]:
    """The newest runs first."""
    query = select(runs).order_by(runs.c.created_at.desc(), runs.c.run_id.desc()).limit(limit)
    for condition in _conditions(wanted):
        query = query.where(condition)
    return database.read(lambda connection: [summary_of_row(row) for row in connection.execute(query)])


def recipes_of_runs(database: Database) -> list[str]:
    """The names of the recipes that ran."""
    query = select(runs.c.recipe).distinct().order_by(runs.c.recipe)
    return database.read(lambda connection: list(connection.execute(query).scalars()))


def attempts_of_runs(database: Database, run_ids: Sequence[str], stage_id: str = "") -> dict[str, list[AttemptRow]]:
    """For each run its attempts, or those of one stage, in the order in which they began."""
    query = select(attempts).where(attempts.c.run_id.in_(run_ids)).order_by(attempts.c.created_at, attempts.c.number)
    if stage_id:
        query = query.where(attempts.c.stage_id == stage_id)
    found: dict[str, list[AttemptRow]] = {run_id: [] for run_id in run_ids}
    for row in database.read(lambda connection: list(connection.execute(query))):
        found[row.run_id].append(_attempt(row))
    return found


def starters_of_runs(database: Database, run_ids: Sequence[str]) -> dict[str, ActorRecord]:
    """Who created each run; runs of older versions do not say."""
    query = select(events).where(events.c.run_id.in_(run_ids), events.c.sequence == 1)
    rows = database.read(lambda connection: list(connection.execute(query)))
    actors = {row.run_id: actor_of(event_from_row(row)) for row in rows}
    return {run_id: actor for run_id, actor in actors.items() if actor is not None}


def events_of_kinds(
    database: Database,
    run_id: str,
    kinds: Sequence[str],
    *,
    stages: Sequence[str] = (),
    after: int = 0,
    newest: int = 0,
) -> list[Event]:
    """The events of these kinds of some stages of a run, in order; without stages those of the run itself.

    `after`: only those with a higher number. `newest`: at most so many of the newest; 0: all.
    """
    of_stages = events.c.stage_id.in_(stages) if stages else events.c.stage_id.is_(None)
    of_run = events.c.run_id == run_id
    query = select(events).where(of_run, of_stages, events.c.kind.in_(kinds), events.c.sequence > after)
    query = query.order_by(events.c.sequence.desc())
    if newest:
        query = query.limit(newest)
    rows = database.read(lambda connection: list(connection.execute(query)))
    return [event_from_row(row) for row in reversed(rows)]


def events_after(
    database: Database, run_id: str, kinds: Sequence[str], *, stage_id: str, after: int, limit: int
) -> list[Event]:
    """The next events of these kinds of a stage of a run, in order, after the one of number `after`."""
    query = (
        select(events)
        .where(events.c.run_id == run_id, events.c.sequence > after)
        .where(events.c.kind.in_(kinds), events.c.stage_id == stage_id)
        .order_by(events.c.sequence)
        .limit(limit)
    )
    return database.read(lambda connection: [event_from_row(row) for row in connection.execute(query)])


def last_reports(database: Database, wanted: Sequence[AttemptRow]) -> dict[str, float]:
    """By attempt: when it last reported progress, metrics or a shard, seconds since 1970; absent: it has not yet.

    Progress alone is an event every 30 s, so it may be later by as much.
    """

    def work(connection: Connection) -> dict[str, float]:
        found = {row.attempt_id: connection.execute(_newest_report(row)).scalar_one() for row in wanted}
        return {attempt: at for attempt, at in found.items() if at is not None}

    return database.read(work) if wanted else {}


def _newest_report(row: AttemptRow) -> Any:
    """The newest event of each kind is found by the index, however many there are; it counts if it is the attempt's."""
    newest = [
        select(events.c.time, events.c.attempt_id)
        .where(events.c.run_id == row.run_id, events.c.stage_id == row.stage_id, events.c.kind == kind)
        .order_by(events.c.sequence.desc())
        .limit(1)
        .subquery()
        for kind in REPORTS
    ]
    each = union_all(*(select(found.c.time, found.c.attempt_id) for found in newest)).subquery()
    return select(func.max(each.c.time)).where(each.c.attempt_id == row.attempt_id)


def _conditions(wanted: RunFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.ids:
        found.append(runs.c.run_id.in_(wanted.ids))
    if wanted.states:
        found.append(runs.c.state.in_(wanted.states))
    if wanted.recipe:
        found.append(runs.c.recipe == wanted.recipe)
    if wanted.owner:
        first = and_(events.c.run_id == runs.c.run_id, events.c.sequence == 1)
        name = json.dumps(wanted.owner)  # as `dump_json` writes it
        is_owner = or_(*(_holds(events.c.fields, f'"{key}":{name}') for key in ("user", "token_name")))
        found.append(select(events.c.run_id).where(first, is_owner).exists())
    if wanted.text:
        of_run = stages.c.run_id == runs.c.run_id
        stage = select(stages.c.run_id).where(of_run, _holds(stages.c.stage_id, wanted.text)).exists()
        columns = (runs.c.run_id, runs.c.recipe, runs.c.message)
        found.append(or_(*(_holds(column, wanted.text) for column in columns), stage))
    if wanted.before:
        at, run_id = wanted.before
        found.append(or_(runs.c.created_at < at, and_(runs.c.created_at == at, runs.c.run_id < run_id)))
    return found


def _holds(column: Any, text: str) -> ColumnElement[bool]:
    """Whether a column holds a text, in which nothing is a wildcard; case does not matter."""
    found: ColumnElement[bool] = column.icontains(text, autoescape=True)
    return found


def _attempt(row: Any) -> AttemptRow:
    return AttemptRow(
        attempt_id=row.attempt_id,
        run_id=row.run_id,
        stage_id=row.stage_id,
        number=row.number,
        epoch=row.epoch,
        state=AttemptState(row.state),
        fingerprint=row.fingerprint,
        failure_class=row.failure_class,
        message=row.message,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        done=row.done,
        total=row.total,
        unit=row.unit,
        rate_per_s=row.rate_per_s,
    )
