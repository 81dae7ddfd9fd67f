"""Projects events to table rows: numbers and writes an event, and applies its changes to the tables.

Rule: rows of runs, stages and attempts change only here and only from the event, so replaying the events of a run gives
the same rows. (The only exception is live progress between two events; see telemetry.py.)
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Update, bindparam, case, insert, select, update

from orchestrator.artifact import JSON
from orchestrator.errors import DatabaseError, LeaseLostError
from orchestrator.history.actors import ACTOR_FIELD, actor_fields
from orchestrator.history.database.database import dump_json
from orchestrator.history.database.schema import attempts, database_now, events, runs, stages
from orchestrator.history.events import BULK_KINDS, AttemptState, Event, EventKind, RunState, event_fields

# Statements of each event are made once: to make one takes longer than to carry it out. `of_...` are parameters.
_OF_RUN = runs.c.run_id == bindparam("of_run")
_OF_STAGE = (stages.c.run_id == bindparam("of_run")) & (stages.c.stage_id == bindparam("of_stage"))
_OF_ATTEMPT = attempts.c.attempt_id == bindparam("of_attempt")
_ROWS = {"runs": (runs, _OF_RUN), "stages": (stages, _OF_STAGE), "attempts": (attempts, _OF_ATTEMPT)}
_LOCK_RUN = select(runs).where(_OF_RUN).with_for_update()
_RUN_OF_ATTEMPT = select(attempts.c.run_id).where(attempts.c.attempt_id == bindparam("of_attempt"))
_LOCK_RUN_OF = select(runs).where(runs.c.run_id == _RUN_OF_ATTEMPT.scalar_subquery()).with_for_update()
_EPOCH = bindparam("of_epoch", type_=runs.c.epoch.type)
_RAISED_EPOCH = case((runs.c.epoch < _EPOCH, _EPOCH), else_=runs.c.epoch)
_NUMBER = (  # the run's row as the new event leaves it, but for what its kind changes
    update(runs)
    .where(_OF_RUN)
    .values(last_event=runs.c.last_event + 1, updated_at=database_now(), epoch=_RAISED_EPOCH)
    .returning(runs.c.last_event, runs.c.updated_at)
)
_INSERT_EVENT = insert(events)
_INSERT_ATTEMPT = insert(attempts)
_TOUCH_RUN = (  # the same from the event
    update(runs)
    .where(_OF_RUN)
    .values(
        last_event=bindparam("of_sequence", type_=runs.c.last_event.type),
        updated_at=bindparam("of_time", type_=runs.c.updated_at.type),
        epoch=_RAISED_EPOCH,
    )
)

_NO_WAIT: Mapping[str, Any] = {"waiting_for": "", "waiting_since": None}
_ENDED = (AttemptState.COMMITTED, AttemptState.FAILED, AttemptState.LOST, AttemptState.CANCELLED)


def lock_run_of(connection: Connection, attempt_id: str, epoch: int) -> Any:
    """`lock_run` of the run of an attempt. Raises: LeaseLostError; DatabaseError: there is no such attempt."""
    row = connection.execute(_LOCK_RUN_OF, {"of_attempt": attempt_id}).one_or_none()
    if row is None:
        raise DatabaseError(f"attempt {attempt_id}: not in the database; `illume index rebuild` finds lost ones")
    return _checked(row, row.run_id, epoch)


def lock_run(connection: Connection, run_id: str, epoch: int | None = None) -> Any:
    """The row of a run, locked until the transaction ends, so that decisions based on it stay valid.

    Raises:
        LeaseLostError: the run has another epoch than `epoch`.
        DatabaseError: there is no such run.
    """
    return _checked(connection.execute(_LOCK_RUN, {"of_run": run_id}).one_or_none(), run_id, epoch)


def _checked(row: Any, run_id: str, epoch: int | None) -> Any:
    if row is None:
        raise DatabaseError(
            f"run {run_id}: not in the database; `illume status` lists the runs, `illume index rebuild` finds lost ones"
        )
    if epoch is not None and row.epoch != epoch:
        raise LeaseLostError(
            f"run {run_id}: this driver has epoch {epoch}, but epoch {row.epoch} has taken over ({row.owner}); "
            "further work of this driver is not recorded. Watch the run with `illume status`"
        )
    return row


def append_event(
    connection: Connection,
    run_id: str,
    kind: str,
    fields: Mapping[str, JSON],
    *,
    epoch: int,
    stage_id: str | None = None,
    attempt_id: str | None = None,
) -> Event:
    """Number, write and project one event of a run. The transaction must hold the lock of the run.

    The lock makes the events of one run visible in the order of their numbers, so a reader that continues after
    the last number it has seen misses none. Every event but telemetry names the actor.
    """
    named = fields if kind in BULK_KINDS else {**fields, ACTOR_FIELD: actor_fields()}
    row = connection.execute(_NUMBER, {"of_run": run_id, "of_epoch": epoch}).one()
    event = Event(
        run_id=run_id,
        sequence=row[0],
        time=row[1],
        epoch=epoch,
        kind=str(kind),
        fields=event_fields(named),
        stage_id=stage_id,
        attempt_id=attempt_id,
    )
    insert_event(connection, event)
    _apply(connection, event)
    return event


def append_once(
    connection: Connection,
    tried: list[Event],  # events of earlier tries of this transaction; the list is shared by the tries
    run_id: str,
    kind: str,
    fields: Mapping[str, JSON],
    *,
    epoch: int,
    stage_id: str | None = None,
    attempt_id: str | None = None,
) -> None:
    """Like `append_event`, for events that change no state; skipped if an earlier try did commit but lost its reply."""
    for event in tried:
        of_event = (events.c.run_id == run_id) & (events.c.sequence == event.sequence)
        row = connection.execute(select(events).where(of_event)).one_or_none()
        if row is not None and event_from_row(row) == event:
            return
    tried.append(append_event(connection, run_id, kind, fields, epoch=epoch, stage_id=stage_id, attempt_id=attempt_id))


def insert_event(connection: Connection, event: Event) -> None:
    row = {
        "run_id": event.run_id,
        "sequence": event.sequence,
        "time": event.time,
        "epoch": event.epoch,
        "kind": event.kind,
        "stage_id": event.stage_id,
        "attempt_id": event.attempt_id,
        "fields": dump_json(event.fields),
    }
    connection.execute(_INSERT_EVENT, row)


def event_from_row(row: Any) -> Event:
    return Event(
        run_id=row.run_id,
        sequence=row.sequence,
        time=row.time,
        epoch=row.epoch,
        kind=row.kind,
        fields=json.loads(row.fields),
        stage_id=row.stage_id,
        attempt_id=row.attempt_id,
    )


def project(connection: Connection, event: Event) -> None:
    """Apply `event`, the next event of its run, to the rows."""
    _apply(connection, event)
    values = {"of_sequence": event.sequence, "of_time": event.time, "of_epoch": event.epoch}
    connection.execute(_TOUCH_RUN, {"of_run": event.run_id, **values})


def _apply(connection: Connection, event: Event) -> None:
    """What the kind of the event changes."""
    change = _CHANGES.get(event.kind)
    if change is not None:
        change(connection, event)


@lru_cache
def _update(table: str, columns: tuple[str, ...]) -> Update:
    found, is_row = _ROWS[table]
    values = {name: bindparam(f"new_{name}", type_=found.c[name].type) for name in columns}
    return update(found).where(is_row).values(values)


def _change(connection: Connection, table: str, row: Mapping[str, str | None], values: Mapping[str, Any]) -> None:
    """Set columns of one row; `row` has the parameters that find it."""
    connection.execute(_update(table, tuple(values)), {**row, **{f"new_{name}": values[name] for name in values}})


def _run_created(connection: Connection, event: Event) -> None:
    fields: dict[str, Any] = event.fields
    known = connection.execute(select(runs.c.run_id).where(runs.c.run_id == event.run_id)).first()
    if known is None:
        connection.execute(insert(runs).values(new_run_row(event.run_id, event.time)))
    connection.execute(
        update(runs)
        .where(runs.c.run_id == event.run_id)
        .values(recipe=fields["recipe"], plan_digest=fields["plan_digest"], created_at=event.time)
    )
    rows = [
        {
            "run_id": event.run_id,
            "stage_id": stage["stage_id"],
            "position": position,
            "stage_kind": stage["stage_kind"],
            "fingerprint": stage["fingerprint"],
            "action": stage["action"],
            "reasons": dump_json(stage["reasons"]),
            "upstream": dump_json(stage["upstream"]),
        }
        for position, stage in enumerate(fields["stages"])
    ]
    if rows:
        connection.execute(insert(stages), rows)


def new_run_row(run_id: str, time: float) -> dict[str, Any]:
    """The row of a run before its first event; `run_created` fills it in."""
    return {
        "run_id": run_id,
        "recipe": "",
        "plan_digest": "",
        "state": RunState.PLANNED,
        "epoch": 0,
        "owner": "",
        "last_event": 0,
        "cancel_requested": False,
        "message": "",
        "created_at": time,
        "updated_at": time,
    }


def _run_state(connection: Connection, event: Event) -> None:
    values: dict[str, Any] = {"state": event.fields["to"], "message": event.fields.get("message", "")}
    if event.fields["to"] == RunState.RUNNING:
        values["owner"] = event.fields.get("owner", "")
        if event.fields["from"] != RunState.PLANNED:  # the cancel request was for the part of the run that has ended
            values["cancel_requested"] = False
    elif event.fields["to"] == RunState.PLANNED:  # queued again; a cancel from now on is for what comes
        values["cancel_requested"] = False
    _change(connection, "runs", {"of_run": event.run_id}, values)
    connection.execute(update(stages).where(stages.c.run_id == event.run_id).values(_NO_WAIT))


def _waiting(connection: Connection, event: Event) -> None:
    _update_stage(connection, event, {"waiting_for": str(event.fields.get("for", "")), "waiting_since": event.time})


def _waited(connection: Connection, event: Event) -> None:
    _update_stage(connection, event, _NO_WAIT)


def _update_stage(connection: Connection, event: Event, values: Mapping[str, Any]) -> None:
    _change(connection, "stages", {"of_run": event.run_id, "of_stage": event.stage_id}, values)


def _cancel_requested(connection: Connection, event: Event) -> None:
    _change(connection, "runs", {"of_run": event.run_id}, {"cancel_requested": True})


def _stage_reused(connection: Connection, event: Event) -> None:
    _update_stage(connection, event, {"action": "reuse", **_NO_WAIT})


def _attempt_state(connection: Connection, event: Event) -> None:
    fields: dict[str, Any] = event.fields
    _update_stage(connection, event, _NO_WAIT)
    if fields["to"] == AttemptState.INTENT:
        connection.execute(_INSERT_ATTEMPT, _attempt_row(event))
        return
    values: dict[str, Any] = {"state": fields["to"]}
    values |= {name: fields[name] for name in ("failure_class", "message") if name in fields}
    if fields["to"] == AttemptState.RUNNING:
        values["started_at"] = event.time
    if fields["to"] in _ENDED:
        values["ended_at"] = event.time
        values |= fields.get("progress", {})
    _change(connection, "attempts", {"of_attempt": event.attempt_id}, values)


def _attempt_row(event: Event) -> dict[str, Any]:
    return {
        "attempt_id": event.attempt_id,
        "run_id": event.run_id,
        "stage_id": event.stage_id,
        "number": event.fields["number"],
        "epoch": event.epoch,
        "state": AttemptState.INTENT,
        "stage_kind": event.fields["stage_kind"],
        "fingerprint": event.fields["fingerprint"],
        "failure_class": "",
        "message": "",
        "created_at": event.time,
        "done": 0,
        "total": 0,
        "unit": "",
        "rate_per_s": 0.0,
    }


def _progress(connection: Connection, event: Event) -> None:
    values = {name: event.fields[name] for name in ("done", "total", "unit", "rate_per_s")}
    _change(connection, "attempts", {"of_attempt": event.attempt_id}, values)


_CHANGES: dict[str, Callable[[Connection, Event], None]] = {
    EventKind.RUN_CREATED: _run_created,
    EventKind.RUN_STATE: _run_state,
    EventKind.CANCEL_REQUESTED: _cancel_requested,
    EventKind.STAGE_REUSED: _stage_reused,
    EventKind.ATTEMPT_STATE: _attempt_state,
    EventKind.PROGRESS: _progress,
    EventKind.WAITING: _waiting,
    EventKind.WAITED: _waited,
}
