"""Rebuilds the index database from the store alone: runs and attempts from their exported events.

Rule: keep what only the database has. Events that are not exported yet are kept and replayed too; the rows of a run
that is at work are left as they are, and no run's row is ever away, so a driver that starts meanwhile notices nothing.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, delete, select, update

from orchestrator.artifact import JSON
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.errors import CorruptArtifactError, NewerFormatError
from orchestrator.history.database.database import Database, upsert
from orchestrator.history.database.schema import attempts, database_now, events, leases, runs, stages
from orchestrator.history.events import Event, event_from_json
from orchestrator.history.lease_owners import is_gone
from orchestrator.history.leases import raise_lease_epoch
from orchestrator.history.projection import event_from_row, insert_event, new_run_row, project

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RebuildReport:
    """What a rebuild found."""

    runs: int
    events: int
    artifacts: int
    problems: tuple[str, ...]  # records in the store that could not be used, as sentences
    at_work: tuple[str, ...] = ()  # runs with a live driver, which were left as they are

    def __str__(self) -> str:
        counts = f"{self.runs} runs with {self.events} events, {self.artifacts} artifacts"
        left = [f"run {run_id} is at work; its rows are left as they are" for run_id in self.at_work]
        return "\n".join([counts, *left, *self.problems])


def rebuild_index(database: Database, artifacts: ArtifactStore) -> RebuildReport:
    """Recreate the rows of runs, stages, attempts and events from the store, and count its committed artifacts.

    Each run is replayed in its own transaction, so a rebuild can be interrupted and repeated at any time, also while
    runs are at work.
    """
    records = RunRecords(artifacts.store)
    problems: list[str] = []
    at_work: list[str] = []
    num_runs = num_events = 0
    for run_id, start in records.runs():
        stored = _stored_events(records, run_id, problems)
        counts = database.write(partial(_replace_run, run_id=run_id, start=start, stored=stored))
        if counts is None:
            at_work.append(run_id)
            continue
        count, missing = counts
        num_runs, num_events = num_runs + 1, num_events + count
        if missing:
            problems.append(f"run {run_id}: {missing} of its {count + missing} events are not in the store")
    num_artifacts = sum(1 for _ in artifacts.all())
    for problem in problems:
        log.warning("%s", problem)
    return RebuildReport(
        runs=num_runs, events=num_events, artifacts=num_artifacts, problems=tuple(problems), at_work=tuple(at_work)
    )


def _stored_events(records: RunRecords, run_id: str, problems: list[str]) -> dict[int, Event]:
    """The exported events by sequence number. Of two events with one number, the one of the newer epoch is used."""
    found: dict[int, Event] = {}
    for line in records.events(run_id):
        try:
            event = event_from_json(line)
        except (CorruptArtifactError, NewerFormatError) as error:
            problems.append(str(error))
            continue
        known = found.get(event.sequence)
        if known is not None and known != event:
            problems.append(f"event {event.id}: two drivers wrote it (epochs {known.epoch} and {event.epoch})")
        if event.run_id == run_id and (known is None or event.epoch >= known.epoch):
            found[event.sequence] = event
    return found


def _replace_run(
    connection: Connection, *, run_id: str, start: Mapping[str, JSON], stored: Mapping[int, Event]
) -> tuple[int, int] | None:
    """Replay the events of a run. Returns the number of events, and of missing numbers; None: the run is at work."""
    before = connection.execute(select(runs).where(runs.c.run_id == run_id).with_for_update()).one_or_none()
    if before is not None and _has_live_driver(connection, run_id):
        return None
    own = connection.execute(select(events).where(events.c.run_id == run_id))
    merged = {**{row.sequence: event_from_row(row) for row in own}, **stored}
    history = [merged[sequence] for sequence in sorted(merged)]
    for table in (events, attempts, stages):
        connection.execute(delete(table).where(table.c.run_id == run_id))
    created_at = history[0].time if history else float(str(start.get("time", 0.0)))
    known = {name: str(start.get(name, "")) for name in ("recipe", "plan_digest")}
    # Replaced, not deleted and inserted: a driver that waits for the row's lock would find no run.
    connection.execute(upsert(connection, runs, {**new_run_row(run_id, created_at), **known}))
    for event in history:
        insert_event(connection, event)
        project(connection, event)
    after = connection.execute(select(runs).where(runs.c.run_id == run_id)).one()
    epoch, last_event = after.epoch, after.last_event
    if before is not None:  # numbers and epochs are used once
        epoch, last_event = max(epoch, before.epoch), max(last_event, before.last_event)
    connection.execute(update(runs).where(runs.c.run_id == run_id).values(epoch=epoch, last_event=last_event))
    raise_lease_epoch(connection, f"run:{run_id}", epoch)  # the next driver's must be above all earlier ones
    return len(history), max(merged, default=0) - len(history)


def _has_live_driver(connection: Connection, run_id: str) -> bool:
    is_live = (leases.c.resource == f"run:{run_id}") & (leases.c.owner != "") & (leases.c.expires_at > database_now())
    owner = connection.execute(select(leases.c.owner).where(is_live)).scalar_one_or_none()
    return owner is not None and not is_gone(owner)
