"""Queries for the question who is alive: states of runs, attempts that have not ended, and attempts by name."""

from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, select

from orchestrator.artifact import ArtifactKey
from orchestrator.errors import DatabaseError
from orchestrator.history.attempts import Attempt, attempt_from_row
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, runs
from orchestrator.history.events import AttemptState, RunState

OPEN = (AttemptState.INTENT, AttemptState.RUNNING)


def run_states(database: Database) -> dict[str, RunState]:
    """The state of every run."""
    query = select(runs.c.run_id, runs.c.state).order_by(runs.c.created_at)
    return database.read(lambda connection: {row.run_id: RunState(row.state) for row in connection.execute(query)})


def run_state(database: Database, run_id: str) -> RunState:
    """Raises: DatabaseError: there is no such run."""
    query = select(runs.c.state).where(runs.c.run_id == run_id)
    found = database.read(lambda connection: connection.execute(query).scalar_one_or_none())
    if found is None:
        raise DatabaseError(
            f"run {run_id}: not in the database; `illume status` lists the runs, `illume index rebuild` finds lost ones"
        )
    return RunState(found)


def open_attempts(database: Database, *, run_id: str | None = None, key: ArtifactKey | None = None) -> list[Attempt]:
    """Attempts in INTENT or RUNNING, oldest first: of all runs or of one, at any artifact or at one."""
    values: dict[str, str] = {}
    if run_id is not None:
        values |= {"of_run": run_id}
    if key is not None:
        values |= {"of_kind": key.stage_kind, "of_fingerprint": key.fingerprint}
    query = _open_attempts(of_run=run_id is not None, of_key=key is not None)
    return database.read(lambda connection: [attempt_from_row(row) for row in connection.execute(query, values)])


@cache  # asked for each stage: to make it takes longer than to carry it out
def _open_attempts(*, of_run: bool, of_key: bool) -> Select[Any]:
    query = select(attempts).where(attempts.c.state.in_(OPEN)).order_by(attempts.c.created_at)
    if of_run:
        query = query.where(attempts.c.run_id == bindparam("of_run"))
    if of_key:
        query = query.where(attempts.c.stage_kind == bindparam("of_kind"))
        query = query.where(attempts.c.fingerprint == bindparam("of_fingerprint"))
    return query


def find_attempt(database: Database, name: str) -> Attempt | None:
    """The attempt with this name."""
    query = select(attempts).where(attempts.c.attempt_id == name)
    row = database.read(lambda connection: connection.execute(query).one_or_none())
    return None if row is None else attempt_from_row(row)


def attempt_names(database: Database) -> frozenset[str]:
    """The names of all attempts."""
    query = select(attempts.c.attempt_id)
    return database.read(lambda connection: frozenset(connection.execute(query).scalars()))
