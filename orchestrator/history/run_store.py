"""The run history: makes every change of a run or an attempt, with its event, in one transaction.

Rule: each change names the state that it expects and the epoch of its driver; a driver that was replaced gets
`LeaseLostError` and can change nothing. Repeating a change does nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select

from orchestrator import failpoints
from orchestrator.artifact import JSON, Artifact
from orchestrator.artifacts.manifest_summary import artifact_fields
from orchestrator.errors import EXIT_UNUSABLE, DatabaseError, OrchestratorError
from orchestrator.history import lease_owners as owners
from orchestrator.history.attempts import Attempt, AttemptIntent, StageRow, attempt_from_row
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, database_now, events, runs
from orchestrator.history.events import RESERVED_KINDS, AttemptState, Event, EventKind, RunState
from orchestrator.history.leases import Lease, release_lease, require_lease
from orchestrator.history.node_offences import NODE_OFFENCE, avoided_nodes
from orchestrator.history.open_attempts import open_attempts
from orchestrator.history.projection import (
    append_event,
    append_once,
    event_from_row,
    lock_run,
    lock_run_of,
    new_run_row,
)
from orchestrator.history.telemetry import Telemetry

RUN_ENDS = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED})
_ATTEMPT_ENDS = frozenset({AttemptState.FAILED, AttemptState.LOST, AttemptState.CANCELLED, AttemptState.COMMITTED})

RUN_TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {  # besides `begin_epoch`, which moves any state to RUNNING
    RunState.PLANNED: frozenset({RunState.CANCELLED, RunState.FAILED}),
    RunState.RUNNING: RUN_ENDS | {RunState.STOPPING},
    RunState.STOPPING: RUN_ENDS,
}
ATTEMPT_TRANSITIONS: Mapping[AttemptState, frozenset[AttemptState]] = {
    AttemptState.INTENT: _ATTEMPT_ENDS | {AttemptState.RUNNING},  # COMMITTED: rolled forward by another driver
    AttemptState.RUNNING: _ATTEMPT_ENDS,
}

# Made once, as each stage needs them: to make one takes longer than to carry it out.
_ATTEMPT = select(attempts).where(attempts.c.attempt_id == bindparam("of_attempt"))
_LAST_NUMBER = select(func.max(attempts.c.number)).where(
    attempts.c.run_id == bindparam("of_run"), attempts.c.stage_id == bindparam("of_stage")
)
_CANCEL_REQUESTED = select(runs.c.cancel_requested).where(runs.c.run_id == bindparam("of_run"))
_NODE_OFFENCES = select(events.c.fields).where(events.c.run_id == bindparam("of_run"), events.c.kind == NODE_OFFENCE)


class StateConflictError(OrchestratorError):
    """A run or an attempt is not in the expected state, or the transition does not exist."""


class AlreadyDoneError(StateConflictError):
    """Somebody else has done this already; nothing was changed."""

    exit_code = EXIT_UNUSABLE


@dataclass(frozen=True, kw_only=True)
class ForwardedTelemetry:
    """What is recorded of the telemetry that a job forwards, in which points and events are numbered from 0."""

    num_points: int
    newest_point_at: float  # for jobs that do not number their points: seconds since 1970
    num_events: int  # of the stage's own


class RunStore:
    """Runs, attempts and their events in SQLite or PostgreSQL; an index, never the truth. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.telemetry = Telemetry(database)  # metrics and progress, buffered

    def close(self) -> None:
        self.telemetry.close()

    def waiting_longer(self, waits_on: Callable[[], bool]) -> AbstractContextManager[None]:
        """See `Database.waiting_longer`."""
        return self.database.waiting_longer(waits_on)

    def create_run(
        self,
        run_id: str,
        *,
        recipe_name: str,
        plan_digest: str,
        stages: Sequence[StageRow],
        fields: Mapping[str, JSON] | None = None,
    ) -> None:
        """Create a run in state PLANNED, epoch 0. Creating the same run again does nothing.

        Raises:
            StateConflictError: the run exists with another plan.
        """
        plan_fields: dict[str, Any] = {"recipe": recipe_name, "plan_digest": plan_digest}
        plan_fields["stages"] = [asdict(stage) for stage in stages]

        def work(connection: Connection) -> None:
            found = connection.execute(select(runs.c.plan_digest).where(runs.c.run_id == run_id)).scalar_one_or_none()
            if found is not None and found != plan_digest:
                raise StateConflictError(f"run {run_id}: exists with plan {found}, found plan {plan_digest}")
            if found is None:
                now: float = connection.execute(select(database_now())).scalar_one()
                connection.execute(insert(runs).values(new_run_row(run_id, now)))
                append_event(connection, run_id, EventKind.RUN_CREATED, {**(fields or {}), **plan_fields}, epoch=0)

        self.database.write(work)

    def begin_epoch(self, run_id: str, lease: Lease) -> int:
        """Take a run over with the lease `run:<run_id>`: its state becomes RUNNING, its epoch the lease's epoch.

        A run that its last driver left RUNNING or STOPPING is first recorded as INTERRUPTED. Clears a cancel request.

        Raises:
            LeaseLostError: the lease is not live.
            DatabaseError: there is no such run, or its epoch is above the lease's.
        """
        assert lease.resource == f"run:{run_id}", f"run {run_id} is taken over with the lease of {lease.resource}"

        def work(connection: Connection) -> int:
            row = lock_run(connection, run_id)
            require_lease(connection, lease)
            if row.epoch == lease.epoch:
                return lease.epoch
            if row.epoch > lease.epoch:
                raise DatabaseError(
                    f"run {run_id}: has epoch {row.epoch}, its lease only {lease.epoch}; an old copy of the database? "
                    "Run `illume index rebuild`"
                )
            if row.state in (RunState.RUNNING, RunState.STOPPING):
                _append_run_transition(
                    connection, row, RunState.INTERRUPTED, {"message": "its driver ended"}, row.epoch
                )
                row = lock_run(connection, run_id)
            taken: dict[str, JSON] = {"owner": owners.describe(lease.owner)}
            _append_run_transition(connection, row, RunState.RUNNING, taken, lease.epoch)
            return lease.epoch

        return self.database.write(work)

    def transition_run(
        self,
        run_id: str,
        expected: RunState,
        new: RunState,
        *,
        epoch: int,
        fields: Mapping[str, JSON] | None = None,  # "message" is shown by status
    ) -> None:
        """Change the state of a run.

        Raises:
            LeaseLostError: the epoch is over.
            StateConflictError: the run is in another state, or there is no such transition.
        """
        if new not in RUN_TRANSITIONS.get(expected, ()):
            raise StateConflictError(f"run {run_id}: cannot change from {expected} to {new}")
        self.telemetry.flush()

        def work(connection: Connection) -> None:
            row = lock_run(connection, run_id, epoch)
            if row.state == expected:
                _append_run_transition(connection, row, new, fields or {}, epoch)
            elif row.state != new:
                raise StateConflictError(f"run {run_id}: found state {row.state}, expected {expected}")

        self.database.write(work)

    def start_attempt(self, intent: AttemptIntent) -> Attempt:
        """Record an intent (state INTENT) and assign the attempt its number.

        Raises:
            LeaseLostError: the epoch is over.
        """
        attempt = intent.attempt

        def work(connection: Connection) -> Attempt:
            run = lock_run(connection, attempt.run_id, attempt.epoch)
            row = connection.execute(_ATTEMPT, {"of_attempt": attempt.name}).one_or_none()
            if row is not None:  # recorded by an earlier try
                return attempt_from_row(row)
            of_stage = {"of_run": attempt.run_id, "of_stage": attempt.stage_id}
            number = (connection.execute(_LAST_NUMBER, of_stage).scalar_one() or 0) + 1
            _append_intent(connection, intent, recipe=run.recipe, number=number)
            return Attempt(id=attempt, number=number, state=AttemptState.INTENT, key=intent.key)

        started = self.database.write(work)
        failpoints.hit("attempt.intent")
        return started

    def transition_attempt(
        self,
        attempt_id: str,
        expected: AttemptState,
        new: AttemptState,
        *,
        epoch: int,
        fields: Mapping[str, JSON] | None = None,  # "failure_class", "message" are shown by status
        artifact: Artifact | None = None,  # with COMMITTED: what was committed; also indexed
        release: Lease | None = None,  # in the same transaction
    ) -> None:
        """Change the state of an attempt. Flushes the telemetry first, so that metrics precede the end of the attempt.

        Raises:
            LeaseLostError: the epoch is over.
            StateConflictError: the attempt is in another state, or there is no such transition.
        """
        if new not in ATTEMPT_TRANSITIONS.get(expected, ()):
            raise StateConflictError(f"attempt {attempt_id}: cannot change from {expected} to {new}")
        self.telemetry.flush()

        def work(connection: Connection) -> None:
            run = lock_run_of(connection, attempt_id, epoch)
            row = connection.execute(_ATTEMPT, {"of_attempt": attempt_id}).one()
            if row.state not in (expected, new):
                raise StateConflictError(f"attempt {attempt_id}: found state {row.state}, expected {expected}")
            if row.state == expected:
                event_fields = {**(fields or {}), "recipe": run.recipe}
                if artifact is not None:
                    event_fields["artifact"] = artifact_fields(artifact.manifest, artifact.manifest_sha256)
                _append_attempt_transition(connection, row, new, event_fields, epoch)
            if release is not None:
                release_lease(connection, release)

        self.database.write(work)
        if new in (AttemptState.RUNNING, AttemptState.COMMITTED):
            failpoints.hit(f"attempt.{new.lower()}")
        if new in _ATTEMPT_ENDS:
            self.telemetry.forget(attempt_id)

    def record(
        self,
        run_id: str,
        kind: str,
        fields: Mapping[str, JSON],
        *,
        epoch: int,
        stage_id: str | None = None,
        attempt_id: str | None = None,
    ) -> None:
        """Record any other event: `EventKind.STAGE_REUSED`, `EventKind.MODEL_VERSION`, or a kind of the caller's own.

        Raises:
            LeaseLostError: the epoch is over.
        """
        assert kind not in RESERVED_KINDS, f"events {kind!r} are written by their own methods"
        tried: list[Event] = []

        def work(connection: Connection) -> None:
            lock_run(connection, run_id, epoch)
            append_once(connection, tried, run_id, kind, fields, epoch=epoch, stage_id=stage_id, attempt_id=attempt_id)

        self.database.write(work)

    def open_attempts(self, run_id: str) -> list[Attempt]:
        """Attempts in INTENT or RUNNING: after `begin_epoch`, those that the last driver left open."""
        return open_attempts(self.database, run_id=run_id)

    def forwarded_up_to(self, attempt_id: str) -> ForwardedTelemetry:
        """What of an attempt's telemetry is in the database."""
        of_attempt = events.c.attempt_id == attempt_id
        newest = select(events.c.fields).where(of_attempt, events.c.kind == EventKind.METRICS)
        newest = newest.order_by(events.c.sequence.desc()).limit(1)
        own_events = select(func.count()).select_from(events).where(of_attempt, events.c.kind.not_in(RESERVED_KINDS))

        def work(connection: Connection) -> tuple[str | None, int]:
            return connection.execute(newest).scalar_one_or_none(), connection.execute(own_events).scalar_one()

        text, num_events = self.database.read(work)
        fields: dict[str, Any] = json.loads(text) if text else {"points": [], "first": 0}
        points = fields["points"]
        return ForwardedTelemetry(
            num_points=fields.get("first", 0) + len(points),
            newest_point_at=max((float(point[3]) for point in points), default=0.0),
            num_events=num_events,
        )

    def request_cancel(self, run_id: str) -> None:
        """Ask the driver of a run to stop. Needs no lease.

        Raises: DatabaseError: there is no such run; StateConflictError: it has ended.
        """

        def work(connection: Connection) -> None:
            row = lock_run(connection, run_id)
            if row.state in RUN_ENDS:
                raise StateConflictError(f"run {run_id}: has ended as {row.state}; there is nothing to cancel")
            if not row.cancel_requested:
                append_event(connection, run_id, EventKind.CANCEL_REQUESTED, {}, epoch=row.epoch)

        self.database.write(work)

    def record_tainted_model(self, run_id: str, takedown: str, *, stage_id: str, attempt_id: str) -> None:
        """Record that a model of the run was trained on what a takedown removed; also for runs that have ended.

        Raises:
            DatabaseError: there is no such run.
        """

        def work(connection: Connection) -> None:
            row = lock_run(connection, run_id)
            fields: dict[str, JSON] = {"takedown": takedown}
            append_event(
                connection,
                run_id,
                EventKind.MODEL_TAINTED,
                fields,
                epoch=row.epoch,
                stage_id=stage_id,
                attempt_id=attempt_id,
            )

        self.database.write(work)

    def cancel_requested(self, run_id: str) -> bool:
        run = {"of_run": run_id}
        return bool(self.database.read(lambda found: found.execute(_CANCEL_REQUESTED, run).scalar_one_or_none()))

    def avoided_nodes(self, run_id: str) -> frozenset[str]:
        """The nodes that stages of the run found unfit."""
        run = {"of_run": run_id}
        return self.database.read(lambda found: avoided_nodes(found.execute(_NODE_OFFENCES, run).scalars()))

    def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events with a sequence number above `after`, in order."""
        of_run = (events.c.run_id == run_id) & (events.c.sequence > after)
        query = select(events).where(of_run).order_by(events.c.sequence).limit(limit)
        return self.database.read(lambda connection: [event_from_row(row) for row in connection.execute(query)])


def _append_run_transition(
    connection: Connection, run: Any, new: RunState, fields: Mapping[str, JSON], epoch: int
) -> None:
    event_fields: dict[str, JSON] = {**fields, "from": run.state, "to": new, "recipe": run.recipe}
    append_event(connection, run.run_id, EventKind.RUN_STATE, event_fields, epoch=epoch)


def _append_intent(connection: Connection, intent: AttemptIntent, *, recipe: str, number: int) -> None:
    attempt = intent.attempt
    inputs: list[JSON] = [asdict(summary) for summary in intent.inputs]
    fields: dict[str, JSON] = {
        **intent.fields,
        "from": None,
        "to": AttemptState.INTENT,
        "recipe": recipe,
        "number": number,
        "attempt_epoch": attempt.epoch,
        "stage_kind": intent.key.stage_kind,
        "stage_version": intent.stage_version,
        "fingerprint": intent.key.fingerprint,
        "config": dict(intent.config),
        "inputs": inputs,
    }
    append_event(
        connection,
        attempt.run_id,
        EventKind.ATTEMPT_STATE,
        fields,
        epoch=attempt.epoch,
        stage_id=attempt.stage_id,
        attempt_id=attempt.name,
    )


def _append_attempt_transition(
    connection: Connection, row: Any, new: AttemptState, fields: Mapping[str, JSON], epoch: int
) -> None:
    event_fields: dict[str, JSON] = {
        **fields,
        "from": row.state,
        "to": new,
        "number": row.number,
        "attempt_epoch": row.epoch,
        "stage_kind": row.stage_kind,
        "fingerprint": row.fingerprint,
    }
    if new in _ATTEMPT_ENDS:
        event_fields["progress"] = {name: getattr(row, name) for name in ("done", "total", "unit", "rate_per_s")}
    append_event(
        connection,
        row.run_id,
        EventKind.ATTEMPT_STATE,
        event_fields,
        epoch=epoch,
        stage_id=row.stage_id,
        attempt_id=row.attempt_id,
    )
