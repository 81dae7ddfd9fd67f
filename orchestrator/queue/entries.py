"""The queue as it is: submissions whose runs have not ended, with their state, place and reason to wait."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, or_, select

from orchestrator.documents.typed_json import record_from_json
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, database_now, leases, queue_records, run_stops, runs, stages
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.lease_owners import is_gone
from orchestrator.queue.amounts import Amounts
from orchestrator.queue.order import Request
from orchestrator.queue.records import PriorityChange, StageNeed, Submission, bounded
from orchestrator.queue.rows import newest

OVER = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)
NO_NEED = StageNeed(stage_id="", fingerprint="", cpus=0.0)

EntryState = Literal["WAITING", "RUNNING", "STOPPING"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run in the queue."""

    submission: Submission
    priority: int
    state: EntryState
    next_stage: StageNeed  # that its driver would start first
    held_back: str = ""  # why it may not start whatever is free; empty: it waits for room
    stage_waits: tuple[str, ...] = ()  # what its stages wait for, of a run with a driver

    @property
    def run_id(self) -> str:
        return self.submission.run_id

    @property
    def asked_at(self) -> float:
        return asked_at(self.submission)


def asked_at(submission: Submission) -> float:
    """When it was submitted, seconds since 1970."""
    return datetime.fromisoformat(submission.at).timestamp()


def submission_of(database: Database, run_id: str) -> Submission | None:
    """The submission of a run; None for one that was started without the queue."""
    query = select(queue_records).where(queue_records.c.what == "submissions", queue_records.c.subject == run_id)
    row = database.read(lambda connection: connection.execute(query.limit(1)).one_or_none())
    return None if row is None else record_from_json(Submission, json.loads(row.record), row.key)


def all_submissions(database: Database) -> dict[str, Submission]:
    """By run, those of runs that have ended too."""
    return newest(database, Submission)


def priority_of(database: Database, submission: Submission) -> int:
    changed = newest(database, PriorityChange).get(submission.run_id)
    return bounded(submission.priority if changed is None else changed.priority)


def open_entries(database: Database, *, held_back: Mapping[str, str] | None = None) -> list[Entry]:
    """All entries, in the order of submission. `held_back`: reasons of the caller, by run."""
    priorities = newest(database, PriorityChange)

    def work(connection: Connection) -> list[Entry]:
        is_open = or_(runs.c.state.is_(None), runs.c.state.not_in(OVER))
        query = (
            select(queue_records.c.record, queue_records.c.key, runs.c.state)
            .join(runs, runs.c.run_id == queue_records.c.subject, isouter=True)
            .where(queue_records.c.what == "submissions", is_open)
        )
        found = [
            (record_from_json(Submission, json.loads(row.record), row.key), row.state)
            for row in connection.execute(query)
        ]
        driven = _driven(connection, [submission.run_id for submission, _ in found])
        stopping = {row.run_id: row.reason for row in connection.execute(select(run_stops))}
        made = _made(connection, [submission for submission, _ in found])
        states = _states(connection, {name for submission, _ in found for name in submission.after})
        entries = []
        for submission, run_state in sorted(found, key=lambda item: (item[0].at, item[0].run_id)):
            run_id = submission.run_id
            change = priorities.get(run_id)
            is_stopping = run_state == RunState.STOPPING or run_id in stopping
            state: EntryState = "WAITING" if run_id not in driven else "STOPPING" if is_stopping else "RUNNING"
            waits = _after(submission, states) or (held_back or {}).get(run_id, "")
            entries.append(
                Entry(
                    submission=submission,
                    priority=bounded(submission.priority if change is None else change.priority),
                    state=state,
                    next_stage=next((need for need in submission.stages if need.fingerprint not in made), NO_NEED),
                    held_back=waits if state == "WAITING" else stopping.get(run_id, ""),
                    stage_waits=_stage_waits(connection, run_id) if state != "WAITING" else (),
                )
            )
        return entries

    return database.read(work)


def request_of(entry: Entry) -> Request:
    """What a waiting run asks of its pool: room for the stage that it would start first."""
    need = entry.next_stage
    return Request(
        run_id=entry.run_id,
        stage_id="",
        person=entry.submission.person,
        priority=entry.priority,
        need=Amounts(cpus=need.cpus, gpus=need.gpus, memory_gib=need.memory_gib),
        asked_at=entry.asked_at,
        makes=need.fingerprint,
    )


def _driven(connection: Connection, run_ids: Sequence[str]) -> set[str]:
    """The runs that have a driver."""
    is_live = (leases.c.owner != "") & (leases.c.expires_at > database_now()) & leases.c.resource.startswith("run:")
    rows = connection.execute(select(leases.c.resource, leases.c.owner).where(is_live)).all()
    return {row.resource.removeprefix("run:") for row in rows if not is_gone(row.owner)} & set(run_ids)


def _made(connection: Connection, submissions: Sequence[Submission]) -> set[str]:
    wanted = {need.fingerprint for submission in submissions for need in submission.stages}
    committed = (attempts.c.state == AttemptState.COMMITTED) & attempts.c.fingerprint.in_(list(wanted))
    return set(connection.execute(select(attempts.c.fingerprint).where(committed)).scalars())


def _states(connection: Connection, run_ids: set[str]) -> dict[str, str]:
    query = select(runs.c.run_id, runs.c.state).where(runs.c.run_id.in_(list(run_ids)))
    return {row.run_id: row.state for row in connection.execute(query)}


def _after(submission: Submission, states: Mapping[str, str]) -> str:
    for run_id in submission.after:
        state = states.get(run_id)
        if state == RunState.SUCCEEDED:
            continue
        if state in (RunState.FAILED, RunState.CANCELLED):
            return f"run {run_id}, which is {state}; `illume resume {run_id}` continues it"
        return f"run {run_id} to succeed"
    return ""


def _stage_waits(connection: Connection, run_id: str) -> tuple[str, ...]:
    query = select(stages.c.stage_id, stages.c.waiting_for).where(stages.c.run_id == run_id, stages.c.waiting_for != "")
    return tuple(f"{row.stage_id}: {row.waiting_for}" for row in connection.execute(query.order_by(stages.c.position)))
