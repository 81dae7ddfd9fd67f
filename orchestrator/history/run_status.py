"""Queries of the run history: list of runs, status of a run, last fingerprint and typical duration of a stage."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from sqlalchemy import Connection, func, select

from orchestrator.artifact import ArtifactKey
from orchestrator.errors import DatabaseError
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, database_now, events, runs, stages
from orchestrator.history.events import AttemptState, RunState
from orchestrator.times import iso_time

# The state of a stage that has no attempt; WAITING also of one whose attempt waits for resources.
WAITING, REUSED, SKIPPED, NOT_RUN = "WAITING", "REUSED", "SKIPPED", "NOT_RUN"
TAKEN_DOWN = "TAKEN_DOWN"  # it was made, and a takedown has removed it since; see `reports/taken_down.py`
_ACTION_STATES = {"reuse": REUSED, "skip": SKIPPED}
_LIVE = (RunState.PLANNED, RunState.RUNNING, RunState.STOPPING)
NUM_TIMED_ATTEMPTS = 20  # newest attempts that an estimate uses


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    run_id: str
    recipe: str
    plan_digest: str
    state: RunState
    epoch: int
    owner: str  # of the newest epoch, for display
    cancel_requested: bool
    message: str
    created_at: float  # by the database's clock, like all times here
    updated_at: float
    last_event: int


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    stage_id: str
    stage_kind: str
    fingerprint: str
    action: str  # of the plan: "run", "reuse" or "skip"
    reasons: tuple[str, ...]
    upstream: tuple[str, ...]
    state: str  # of the newest attempt (`AttemptState`), WAITING if that waits; or REUSED, SKIPPED, WAITING, NOT_RUN
    attempt_id: str = ""
    attempt: int = 0  # number of the newest attempt; 0: it has none
    done: int = 0
    total: int = 0
    unit: str = ""
    rate_per_s: float = 0.0
    eta_s: float | None = None
    elapsed_s: float | None = None  # of the newest attempt
    failure_class: str = ""
    message: str = ""
    waiting_for: str = ""  # what it waits for now: another run, a job, memory, CPUs, GPUs; empty if for nothing
    waiting_since: float | None = None

    @property
    def key(self) -> ArtifactKey:
        return ArtifactKey(self.stage_kind, self.fingerprint)


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    run: RunSummary
    stages: tuple[StageStatus, ...]  # upstream first


def list_runs(database: Database, *, limit: int = 50) -> list[RunSummary]:
    """The newest runs first."""
    query = select(runs).order_by(runs.c.created_at.desc(), runs.c.run_id.desc()).limit(limit)
    return database.read(lambda connection: [summary_of_row(row) for row in connection.execute(query)])


def run_status(database: Database, run_id: str) -> RunStatus:
    """The status of a run and each of its stages, from one consistent view.

    Raises:
        DatabaseError: there is no such run.
    """

    def work(connection: Connection) -> RunStatus:
        row = connection.execute(select(runs).where(runs.c.run_id == run_id)).one_or_none()
        if row is None:
            known = connection.execute(select(runs.c.run_id).order_by(runs.c.created_at.desc()).limit(5)).scalars()
            raise DatabaseError(f"run {run_id!r}: not found; the newest runs are: {', '.join(known) or 'none'}")
        return _statuses(connection, [summary_of_row(row)])[0]

    return database.read(work)


def run_statuses(database: Database, summaries: Sequence[RunSummary]) -> list[RunStatus]:
    """The status of each of several runs, with a number of queries that does not depend on how many they are."""
    return database.read(lambda connection: _statuses(connection, summaries))


def _statuses(connection: Connection, summaries: Sequence[RunSummary]) -> list[RunStatus]:
    now: float = connection.execute(select(database_now())).scalar_one()
    ids = [run.run_id for run in summaries]
    newest = _newest_attempts(connection, ids)
    of_runs = select(stages).where(stages.c.run_id.in_(ids)).order_by(stages.c.run_id, stages.c.position)
    by_run: dict[str, list[Any]] = {}
    for stage in connection.execute(of_runs):
        by_run.setdefault(stage.run_id, []).append(stage)
    return [
        RunStatus(
            run=run,
            stages=tuple(
                _stage(stage, newest.get((run.run_id, stage.stage_id)), run, now)
                for stage in by_run.get(run.run_id, ())
            ),
        )
        for run in summaries
    ]


def newest_run(database: Database, *, recipe: str | None = None) -> RunSummary | None:
    """The run that was created last, of any recipe or of `recipe`."""
    query = select(runs).order_by(runs.c.created_at.desc(), runs.c.run_id.desc()).limit(1)
    if recipe is not None:
        query = query.where(runs.c.recipe == recipe)
    row = database.read(lambda connection: connection.execute(query).one_or_none())
    return None if row is None else summary_of_row(row)


def last_fingerprint(database: Database, *, recipe: str, stage_id: str, stage_kind: str) -> str | None:
    """The fingerprint that this stage of the recipe made or reused last, to compare a new identity with."""
    made = (
        select(attempts.c.fingerprint, attempts.c.created_at)
        .join(runs, runs.c.run_id == attempts.c.run_id)
        .where(runs.c.recipe == recipe, attempts.c.stage_id == stage_id, attempts.c.stage_kind == stage_kind)
        .where(attempts.c.state == AttemptState.COMMITTED)
    )
    reused = (
        select(stages.c.fingerprint, runs.c.created_at)
        .join(runs, runs.c.run_id == stages.c.run_id)
        .where(runs.c.recipe == recipe, stages.c.stage_id == stage_id, stages.c.stage_kind == stage_kind)
        .where(stages.c.action == "reuse")
    )
    both = made.union_all(reused).subquery()
    query = select(both.c.fingerprint).order_by(both.c.created_at.desc()).limit(1)
    return database.read(lambda connection: connection.execute(query).scalar_one_or_none())


@dataclass(frozen=True, kw_only=True)
class WorkSize:
    """How much a stage is to do, as far as that is known."""

    units: float | None = None  # of its progress: steps of a training
    rows: int | None = None  # of its inputs


def typical_duration_s(
    database: Database, *, recipe: str, stage_id: str, fingerprint: str, size: WorkSize | None = None
) -> float | None:
    """Median seconds of the newest committed attempts: of this identity if there are any, else of the stage.

    Those of other identities are scaled to `size`, by their steps or by the rows of their inputs. Other recipes are not
    used: the same kind takes seconds in one and weeks in another.
    """
    committed = (
        select(attempts)
        .join(runs, runs.c.run_id == attempts.c.run_id)
        .where(attempts.c.state == AttemptState.COMMITTED)
        .where(attempts.c.started_at.is_not(None), attempts.c.ended_at.is_not(None))
        .order_by(attempts.c.ended_at.desc())
        .limit(NUM_TIMED_ATTEMPTS)
    )

    def work(connection: Connection) -> float | None:
        same = connection.execute(committed.where(attempts.c.fingerprint == fingerprint)).all()
        if same:
            times: list[float] = [row.ended_at - row.started_at for row in same]
            return median(times)
        of_stage = connection.execute(committed.where(runs.c.recipe == recipe, attempts.c.stage_id == stage_id)).all()
        scale = partial(_times_larger, connection, size or WorkSize())
        scaled: list[float] = [(row.ended_at - row.started_at) * scale(row) for row in of_stage]
        return median(scaled) if scaled else None

    return database.read(work)


def _times_larger(connection: Connection, size: WorkSize, attempt: Any) -> float:
    """How many times as much work `size` is as an attempt's; 1 where that is not known."""
    if size.units is not None:
        return size.units / attempt.total if attempt.total else 1.0
    if size.rows is None:
        return 1.0
    query = select(events.c.fields).where(events.c.run_id == attempt.run_id, events.c.attempt_id == attempt.attempt_id)
    fields = json.loads(connection.execute(query.order_by(events.c.sequence).limit(1)).scalar_one_or_none() or "{}")
    rows = sum(found.get("rows") or 0 for found in fields.get("inputs", ()))
    return size.rows / rows if rows else 1.0


def _newest_attempts(connection: Connection, run_ids: Sequence[str]) -> Mapping[tuple[str, str], Any]:
    """The newest attempt of each stage, by run and stage."""
    newest = (
        select(attempts.c.run_id, attempts.c.stage_id, func.max(attempts.c.number).label("number"))
        .where(attempts.c.run_id.in_(run_ids))
        .group_by(attempts.c.run_id, attempts.c.stage_id)
        .subquery()
    )
    is_newest = (
        (attempts.c.run_id == newest.c.run_id)
        & (attempts.c.stage_id == newest.c.stage_id)
        & (attempts.c.number == newest.c.number)
    )
    query = select(attempts).join(newest, is_newest).where(attempts.c.run_id.in_(run_ids))
    return {(row.run_id, row.stage_id): row for row in connection.execute(query)}


def summary_of_row(row: Any) -> RunSummary:
    return RunSummary(
        run_id=row.run_id,
        recipe=row.recipe,
        plan_digest=row.plan_digest,
        state=RunState(row.state),
        epoch=row.epoch,
        owner=row.owner,
        cancel_requested=row.cancel_requested,
        message=row.message,
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_event=row.last_event,
    )


def _stage(stage: Any, attempt: Any, run: RunSummary, now: float) -> StageStatus:
    status: dict[str, Any] = {
        "stage_id": stage.stage_id,
        "stage_kind": stage.stage_kind,
        "fingerprint": stage.fingerprint,
        "action": stage.action,
        "reasons": tuple(json.loads(stage.reasons)),
        "upstream": tuple(json.loads(stage.upstream)),
    }
    wait: dict[str, Any] = {}
    if run.state in _LIVE and stage.waiting_for:
        text = f"waiting for {stage.waiting_for} since {iso_time(stage.waiting_since)}"
        wait = {"message": text, "waiting_for": stage.waiting_for, "waiting_since": stage.waiting_since}
    if attempt is None or (stage.action == "reuse" and attempt.state != AttemptState.COMMITTED):
        waiting = WAITING if run.state in _LIVE else NOT_RUN
        state = _ACTION_STATES.get(stage.action, waiting)
        return StageStatus(**status, state=state, **(wait if state == WAITING else {}))
    is_open = attempt.state in (AttemptState.INTENT, AttemptState.RUNNING)
    is_waiting = is_open and bool(wait)
    left = attempt.total - attempt.done
    elapsed_s = (now if is_open else attempt.ended_at) - (attempt.started_at or attempt.created_at)
    has_eta = is_open and not is_waiting and attempt.rate_per_s > 0 and left >= 0
    return StageStatus(
        **status,
        state=WAITING if is_waiting else attempt.state,
        attempt_id=attempt.attempt_id,
        attempt=attempt.number,
        done=attempt.done,
        total=attempt.total,
        unit=attempt.unit,
        rate_per_s=0.0 if is_waiting else attempt.rate_per_s,
        eta_s=left / attempt.rate_per_s if has_eta else None,
        elapsed_s=max(0.0, elapsed_s),
        failure_class=attempt.failure_class,
        **(wait if is_waiting else {"message": attempt.message}),
    )
