"""The outbox: delivers events to sinks at least once, in order within a run, without ever blocking work.

Rule: the event rows are the outbox, written in the transaction of the change that they describe; a sink's cursor
(`delivered`) advances only after the sink has confirmed that the events are safe. One process at a time delivers a run
to a sink (a lease). A run or an event that a sink cannot take delays itself and nothing else.
"""

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, bindparam, case, select, update

from orchestrator import failpoints
from orchestrator.errors import OrchestratorError
from orchestrator.history.database.database import Database, insert_new
from orchestrator.history.database.schema import database_now, events, outbox, runs
from orchestrator.history.events import BULK_KINDS, Event
from orchestrator.history.leases import Leases
from orchestrator.history.projection import event_from_row
from orchestrator.redaction.masking import mask_text

POLL_S = 2.0
BATCH = 500  # events for one call of a sink
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 60.0  # between tries of a sink that fails
FLUSH_TRIES = 3  # rounds in a row without a delivery after which `drain` stops waiting for a sink
MAX_FAILING_S = 10.0  # how long a round may fail before those runs that did not fail get their next turn
EVENT_TRIES = 3  # failed deliveries of a run before its events are delivered one by one
# Errors that the content of an event causes, when another event is taken: a missing field, another type, bad text.
EVENT_ERRORS = (LookupError, TypeError, ValueError, AttributeError, AssertionError)
DELIVERY_LEASE_S = 120.0

# Made once: to make one takes longer than to carry it out.
_OF_ROW = (outbox.c.run_id == bindparam("of_run")) & (outbox.c.sink == bindparam("of_sink"))
_NEXT = (
    select(events)
    .where(
        events.c.run_id == bindparam("of_run"),
        events.c.sequence > select(outbox.c.delivered).where(_OF_ROW).scalar_subquery(),
    )
    .order_by(events.c.sequence)
    .limit(BATCH)
)
_UP_TO = bindparam("up_to", type_=outbox.c.delivered.type)
_MOVED = (
    update(outbox)
    .where(_OF_ROW, outbox.c.delivered < _UP_TO)
    .values(delivered=_UP_TO, rejected=outbox.c.rejected + bindparam("more_rejected", type_=outbox.c.rejected.type))
)
_MOVE = _MOVED.values(problem=case((outbox.c.rejected > 0, outbox.c.problem), else_=""))
_MOVE_PAST = _MOVED.values(problem=bindparam("new_problem", type_=outbox.c.problem.type))

log = logging.getLogger(__name__)


class SinkRejectedError(OrchestratorError):
    """The sink can never accept this event; it is counted, reported and skipped."""


class Sink(Protocol):
    """A destination of events. `deliver` may be called again with events it already has; that must change nothing."""

    @property
    def name(self) -> str:
        """The type and address, without secrets, e.g. `mlflow http://host:5000`; the key of the delivery cursor."""

    @property
    def linger_s(self) -> float:
        """How long metrics and progress may wait to be delivered together; other events never wait."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Accept events of one run, in order; returns when they are safe.

        Raises: SinkRejectedError: an event can never be accepted. Other errors: all events are delivered again later.
        """


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The progress of a sink with a run's events."""

    run_id: str
    sink: str
    delivered: int  # sequence number of the last event that the sink has
    last_event: int
    rejected: int
    problem: str

    @property
    def waiting(self) -> int:
        return self.last_event - self.delivered


def deliveries(database: Database, *, only_waiting: bool = False) -> list[Delivery]:
    """The cursors of all sinks that were ever used, for `illume doctor`."""
    query = select(outbox, runs.c.last_event).join(runs, runs.c.run_id == outbox.c.run_id)
    if only_waiting:
        query = query.where(runs.c.last_event > outbox.c.delivered)
    query = query.order_by(runs.c.created_at, runs.c.run_id, outbox.c.sink)
    return database.read(lambda connection: [Delivery(**row._mapping) for row in connection.execute(query)])


class Outbox:
    """Delivers with one thread for each sink, so that a failing sink delays only itself.

    Context manager. Also delivers undelivered events of earlier runs to the same sinks.
    """

    def __init__(self, database: Database, sinks: Sequence[Sink]) -> None:
        leases = Leases(database)
        self._database = database
        self._workers = [_SinkWorker(database, leases, sink) for sink in sinks]

    def __enter__(self) -> "Outbox":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def follow(self, run_id: str) -> None:
        """Start delivering this run's events to the sinks, from the first that each sink does not have."""

        def work(connection: Connection) -> None:
            for worker in self._workers:
                row = {"run_id": run_id, "sink": worker.sink.name, "delivered": 0, "rejected": 0, "problem": ""}
                connection.execute(insert_new(connection, outbox).values(row).on_conflict_do_nothing())

        self._database.write(work)
        for worker in self._workers:
            worker.start()

    def drain(self, timeout_s: float) -> dict[str, int]:
        """Deliver the remaining events of all runs to these sinks; returns the undelivered events by sink, if any."""
        deadline = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.flush()
        for worker in self._workers:
            worker.wait_idle(deadline - time.monotonic())
        waiting = {worker.sink.name: 0 for worker in self._workers}
        for delivery in deliveries(self._database, only_waiting=True):
            if delivery.sink in waiting:
                waiting[delivery.sink] += delivery.waiting
        return {sink: number for sink, number in waiting.items() if number}

    def close(self) -> None:
        """End the threads; undelivered events stay for the next process. The thread of a hanging sink is abandoned."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join(2.0)


@dataclass(kw_only=True)
class _RunFailures:
    """What a run has failed with since its last delivery to a sink."""

    count: int = 0
    next_try_s: float = 0.0  # by the monotonic clock
    problem: str = ""


class _SinkWorker:
    """Delivers to one sink, run by run, with a back-off for each run.

    A round begins with the runs that failed least, so a run that fails for ever keeps no other one waiting.
    """

    def __init__(self, database: Database, leases: Leases, sink: Sink) -> None:
        self.sink = sink
        self._database = database
        self._leases = leases
        self._failures: dict[str, _RunFailures] = {}  # by run
        self._failed_rounds = 0  # in a row without any delivery
        self._flushes = self._flushed = 0  # asked for; done by a round that began after each was asked for
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"outbox {sink.name}", daemon=True)

    def start(self) -> None:
        if not self._thread.is_alive() and not self._stopped.is_set():
            self._thread.start()

    def flush(self) -> None:
        self._idle.clear()
        self._failed_rounds = 0
        self._flushes += 1
        self._wake.set()
        self.start()

    @property
    def _flushing(self) -> bool:
        """Deliver without lingering; set `_idle` when nothing is left or the sink fails."""
        return self._flushed < self._flushes

    def wait_idle(self, timeout_s: float) -> None:
        self._idle.wait(max(0.0, timeout_s))

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self._stopped.is_set():
            asked = self._flushes
            try:
                delivered, failed = self._deliver_round()
            except Exception as error:  # noqa: BLE001 - the boundary: the database may be away
                log.warning("sink %s: %s; trying again", self.sink.name, _problem(error))
                delivered, failed = 0, 1
            self._failed_rounds = self._failed_rounds + 1 if failed and not delivered else 0
            if delivered and self._flushing:
                continue
            if self._flushed < asked and (not failed or self._failed_rounds >= FLUSH_TRIES):
                self._flushed = asked
                if not self._flushing:
                    self._idle.set()
            wait_s = backoff_s(self._failed_rounds, random.random()) if failed else POLL_S
            self._wake.wait(min(wait_s, 1.0) if self._flushing else min(wait_s, POLL_S))
            self._wake.clear()

    def _deliver_round(self) -> tuple[int, int]:
        """Deliver the waiting events of the runs whose turn it is: (runs delivered, runs failed)."""
        waiting = [item for item in deliveries(self._database, only_waiting=True) if item.sink == self.sink.name]
        self._failures = {item.run_id: self._failures[item.run_id] for item in waiting if item.run_id in self._failures}
        delivered = failed = 0
        failing_s = 0.0
        for item in sorted(waiting, key=lambda item: self._failures_of(item.run_id).count):
            began_s = time.monotonic()
            if self._stopped.is_set() or failing_s > MAX_FAILING_S:
                break
            if not self._flushing and began_s < self._failures_of(item.run_id).next_try_s:
                continue
            try:
                delivered += self._deliver_run(item.run_id)
            except Exception as error:  # noqa: BLE001 - the boundary: a sink may raise anything; logged and tried again
                failed += 1
                failing_s += time.monotonic() - began_s
                self._note_failure(item.run_id, _problem(error))
        return delivered, failed

    def _failures_of(self, run_id: str) -> _RunFailures:
        return self._failures.get(run_id, _RunFailures())

    def _note_failure(self, run_id: str, problem: str) -> None:
        before = self._failures_of(run_id)
        wait_s = backoff_s(before.count + 1, random.random())
        self._failures[run_id] = _RunFailures(
            count=before.count + 1, next_try_s=time.monotonic() + wait_s, problem=problem
        )
        if problem != before.problem:
            log.warning(
                "sink %s: run %s: %s; trying again in %.1f s and later", self.sink.name, run_id, problem, wait_s
            )

    def _deliver_run(self, run_id: str) -> bool:
        """Deliver what waits now; what comes meanwhile is for the next round, so that it is few calls and commits."""
        if self.sink.linger_s > 0 and not self._next_batch(run_id):
            return False
        lease = self._leases.acquire(f"outbox:{run_id}:{self.sink.name}", duration_s=DELIVERY_LEASE_S)
        if lease is None:
            return False  # another process delivers this run
        try:
            batch = delivered = self._next_batch(run_id)  # now that no other process can move the cursor
            while batch and not self._stopped.is_set():
                self._deliver_batch(batch)
                if len(batch) < BATCH:
                    break
                lease = self._leases.renew(lease)
                batch = self._next_batch(run_id)
        finally:
            self._leases.release(lease, forget=True)
        return bool(delivered)

    def _deliver_batch(self, batch: list[Event]) -> None:
        try:
            self.sink.deliver(batch)
        except SinkRejectedError as error:
            if len(batch) > 1:
                self._deliver_singly(batch)
                return
            self._skip(batch[0], _problem(error))
        except Exception as error:
            run_id = batch[0].run_id
            self._record_problem(run_id, _problem(error))
            has_tried = self._failures_of(run_id).count + 1 >= EVENT_TRIES
            if not (isinstance(error, EVENT_ERRORS) and has_tried and len(batch) > 1):
                raise
            self._deliver_singly(batch)
        else:
            failpoints.hit("outbox.delivered")
            self._failures.pop(batch[0].run_id, None)
            self._move_cursor(batch)

    def _deliver_singly(self, batch: list[Event]) -> None:
        """Deliver events one by one. One that fails is skipped if the sink takes a later one: the event is at fault.

        That later one is delivered again in its turn, which changes nothing.
        """
        for position, event in enumerate(batch):
            try:
                self._deliver_batch([event])
            except EVENT_ERRORS as error:
                if not any(self._is_taken(later) for later in batch[position + 1 :]):
                    raise
                self._skip(event, _problem(error))

    def _is_taken(self, event: Event) -> bool:
        try:
            self.sink.deliver([event])
        except (SinkRejectedError, *EVENT_ERRORS):
            return False
        return True

    def _skip(self, event: Event, problem: str) -> None:
        log.error("sink %s: event %s is skipped: %s", self.sink.name, event.id, problem)
        self._move_cursor([event], rejected=1, problem=f"{event.id}: {problem}")

    def _next_batch(self, run_id: str) -> list[Event]:
        linger_s = 0.0 if self._flushing else self.sink.linger_s

        def work(connection: Connection) -> list[Event]:
            rows = connection.execute(_NEXT, self._row(run_id))
            batch = [event_from_row(row) for row in rows]
            may_linger = linger_s > 0 and 0 < len(batch) < BATCH and all(event.kind in BULK_KINDS for event in batch)
            if may_linger:
                now: float = connection.execute(select(database_now())).scalar_one()
                return [] if now - batch[0].time < linger_s else batch
            return batch

        return self._database.read(work)

    def _move_cursor(self, batch: list[Event], *, rejected: int = 0, problem: str = "") -> None:
        """Advance the cursor, never back. Clears the problem of a sink that was unreachable; rejections stay."""
        new = {**self._row(batch[0].run_id), "up_to": batch[-1].sequence, "more_rejected": rejected}
        statement, values = (_MOVE_PAST, {**new, "new_problem": problem}) if rejected else (_MOVE, new)
        self._database.write(lambda connection: connection.execute(statement, values))

    def _record_problem(self, run_id: str, problem: str) -> None:
        statement = update(outbox).where(_OF_ROW).values(problem=problem)
        self._database.write(lambda connection: connection.execute(statement, self._row(run_id)))

    def _row(self, run_id: str) -> dict[str, Any]:
        """The parameters of `_OF_ROW`."""
        return {"of_run": run_id, "of_sink": self.sink.name}


def backoff_s(failures: int, random_share: float) -> float:
    """Seconds until the next try: doubles up to `MAX_WAIT_S`, spread by a quarter either way."""
    return float(min(FIRST_WAIT_S * 2 ** min(failures - 1, 20), MAX_WAIT_S)) * (0.75 + random_share / 2)


def _problem(error: Exception) -> str:
    return mask_text(" ".join(f"{type(error).__name__}: {error}".split()))[:1000]
