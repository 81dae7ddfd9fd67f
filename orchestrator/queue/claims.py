"""Claims on a shared cluster, in the database: each driver asks for its stages, each server for the runs that wait.

Whoever asks decides for all (`order.decide`) in one transaction, so drivers and servers share a cluster without one
that has to be alive. Rule: a claim counts for `CLAIM_S` after its driver, or a server, last renewed it; what dies
gives its room back. Claims decide when work starts, never what is correct: that is up to leases and fences.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, delete, select, update

from orchestrator.history.database.database import Database, insert_new, upsert
from orchestrator.history.database.schema import claims, database_now, pool_usage, pools, run_stops
from orchestrator.queue.amounts import UNLIMITED, Amounts
from orchestrator.queue.order import Decision, Holder, Policy, Request, decide

CLAIM_S = 90.0  # longer than a lease, so that a driver that is only slow keeps its room
HALF_LIFE_S = 24 * 3600.0  # of what somebody used


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What runs share."""

    name: str
    capacity: Amounts | None = None  # None: not known before somebody has joined the cluster


@dataclass(frozen=True, kw_only=True)
class View:
    """A pool at one moment."""

    requests: Sequence[Request]
    holders: Sequence[Holder]
    capacity: Amounts | None
    used: Mapping[str, float]
    now: float


class Claims:
    """The claims on one pool. Thread-safe."""

    def __init__(self, database: Database, pool: Pool, *, policy: Policy | None = None) -> None:
        self._database, self.pool, self._policy = database, pool, policy or Policy()

    def ask(self, request: Request, *, may_yield: bool, is_at_work: bool = False) -> str:
        """Ask for room for a stage of a run that is driven by this process; empty: it has it, else why it waits.

        Asked again until it has it; the run's place in the queue becomes the place of its stages. `is_at_work`: it
        has its room already, as a job that outlived its driver.
        """

        def work(connection: Connection) -> str:
            now = self._lock(connection)
            has_room = is_at_work or self._take_place(connection, request)
            row = connection.execute(select(claims).where(_is(*request.key))).one_or_none()
            if row is None or row.granted_at is None:
                wanted = self._row(request, now, may_yield=may_yield)
                wanted["granted_at"] = now if has_room else None
                connection.execute(upsert(connection, claims, wanted))
            else:
                connection.execute(update(claims).where(_is(*request.key)).values(seen_at=now))
            self._decide(connection, now)
            found = connection.execute(select(claims).where(_is(*request.key))).one()
            return "" if found.granted_at is not None else found.reason or "its turn"

        return self._database.write(work)

    def queue(self, requests: Iterable[Request]) -> list[str]:
        """The runs that wait for a driver, all of them; returns those that may start now."""
        waiting = {request.run_id: request for request in requests}

        def work(connection: Connection) -> list[str]:
            now = self._lock(connection)
            of_pool = (claims.c.pool == self.pool.name) & (claims.c.stage_id == "")
            known = {row.run_id: row for row in connection.execute(select(claims).where(of_pool))}
            for run_id in known.keys() - waiting.keys():
                if known[run_id].granted_at is None:  # else its driver is about to ask for its stages
                    connection.execute(delete(claims).where(_is(run_id, "")))
            for run_id, request in waiting.items():
                if run_id not in known or known[run_id].priority != request.priority:
                    connection.execute(upsert(connection, claims, self._row(request, now, may_yield=False)))
            of_waiting = of_pool & claims.c.run_id.in_(list(waiting))
            connection.execute(update(claims).where(of_waiting).values(seen_at=now))
            self._decide(connection, now)
            granted = select(claims.c.run_id).where(of_waiting, claims.c.granted_at.is_not(None))
            return list(connection.execute(granted.order_by(claims.c.granted_at, claims.c.run_id)).scalars())

        return self._database.write(work)

    def renew(self, run_id: str) -> None:
        """Say that the claims of a run still count."""
        of_run = claims.c.run_id == run_id
        self._database.write(
            lambda connection: connection.execute(update(claims).where(of_run).values(seen_at=database_now()))
        )

    def release(self, run_id: str, stage_id: str | None = None) -> None:
        """Give back the room of a stage, or of all stages of a run."""

        def work(connection: Connection) -> None:
            now = self._lock(connection)
            of_run = (claims.c.run_id == run_id) & (claims.c.pool == self.pool.name)
            for row in connection.execute(select(claims).where(of_run)).all():
                if stage_id in (None, row.stage_id):
                    self._end(connection, now, (row.run_id, row.stage_id))

        self._database.write(work)

    def view(self) -> View:
        """The pool as it is, for people."""
        return self._database.read(lambda connection: self._view(connection, _now(connection)))

    def _lock(self, connection: Connection) -> float:
        """Let one at a time decide about a pool. Returns the database's time."""
        of_pool = pools.c.pool == self.pool.name
        known = self.pool.capacity
        row = _pool_row(self.pool.name, known or Amounts(), seen_at=0.0)
        connection.execute(insert_new(connection, pools).values(row).on_conflict_do_nothing())
        connection.execute(select(pools.c.pool).where(of_pool).with_for_update())
        now = _now(connection)
        if known is not None:
            connection.execute(upsert(connection, pools, _pool_row(self.pool.name, known, seen_at=now)))
        return now

    def _take_place(self, connection: Connection, request: Request) -> bool:
        """End the wait of a run for its driver. True: what was kept for the run is enough for this stage."""
        place = connection.execute(select(claims).where(_is(request.run_id, ""))).one_or_none()
        connection.execute(delete(claims).where(_is(request.run_id, "")))
        return place is not None and place.granted_at is not None and request.need.fits_in(_request(place).need)

    def _decide(self, connection: Connection, now: float) -> None:
        view = self._view(connection, now)
        live = {waiting.key for waiting in (*view.requests, *(holder.request for holder in view.holders))}
        of_pool = select(claims).where(claims.c.pool == self.pool.name)
        for row in connection.execute(of_pool).all():
            if (row.run_id, row.stage_id) not in live:
                self._end(connection, now, (row.run_id, row.stage_id))
        decision = decide_view(view, self._policy)
        for start in decision.starts:
            granted = {"granted_at": now, "reason": ""}
            connection.execute(update(claims).where(_is(*start.key)).values(granted))
        for (run_id, stage_id), reason in decision.waits.items():
            changed = _is(run_id, stage_id) & (claims.c.reason != reason)
            connection.execute(update(claims).where(changed).values(reason=reason))
        for run_id, request in decision.yields.items():
            reason = f"made room for run {request.run_id} (priority {request.priority})"
            ask_to_stop(connection, run_id, reason, now)

    def _view(self, connection: Connection, now: float) -> View:
        of_pool = claims.c.pool == self.pool.name
        stopping = set(connection.execute(select(run_stops.c.run_id)).scalars())
        requests, holders = [], []
        for row in connection.execute(select(claims).where(of_pool, claims.c.seen_at > now - CLAIM_S)):
            request = _request(row)
            if row.granted_at is None:
                requests.append(request)
            else:
                holders.append(
                    Holder(
                        request=request,
                        granted_at=row.granted_at,
                        may_yield=row.may_yield,
                        is_yielding=row.run_id in stopping,
                    )
                )
        found = connection.execute(select(pools).where(pools.c.pool == self.pool.name)).one_or_none()
        capacity = self.pool.capacity
        if capacity is None and found is not None and found.seen_at:
            capacity = Amounts(cpus=found.cpus, gpus=found.gpus, memory_gib=found.memory_gib)
        return View(
            requests=requests,
            holders=holders,
            capacity=capacity,
            used=self._used(connection, holders, capacity or UNLIMITED, now),
            now=now,
        )

    def _used(
        self, connection: Connection, holders: Sequence[Holder], capacity: Amounts, now: float
    ) -> dict[str, float]:
        rows = connection.execute(select(pool_usage).where(pool_usage.c.pool == self.pool.name))
        used = {row.person: _decayed(row.amount, now - row.at) for row in rows}
        for holder in holders:
            share_s = holder.request.need.share_of(capacity) * max(0.0, now - holder.granted_at)
            used[holder.request.person] = used.get(holder.request.person, 0.0) + share_s
        return used

    def _end(self, connection: Connection, now: float, key: tuple[str, str]) -> None:
        """Delete a claim and remember what was used."""
        row = connection.execute(select(claims).where(_is(*key))).one_or_none()
        if row is None:
            return
        connection.execute(delete(claims).where(_is(*key)))
        if row.granted_at is None:
            return
        view = self._view(connection, now)
        share_s = _request(row).need.share_of(view.capacity or UNLIMITED) * max(0.0, now - row.granted_at)
        of_person = (pool_usage.c.pool == self.pool.name) & (pool_usage.c.person == row.person)
        before = connection.execute(select(pool_usage).where(of_person)).one_or_none()
        amount = share_s + (_decayed(before.amount, now - before.at) if before is not None else 0.0)
        usage = {"pool": self.pool.name, "person": row.person, "amount": amount, "at": now}
        connection.execute(upsert(connection, pool_usage, usage))

    def _row(self, request: Request, now: float, *, may_yield: bool) -> dict[str, Any]:
        return {
            "run_id": request.run_id,
            "stage_id": request.stage_id,
            "pool": self.pool.name,
            "person": request.person,
            "priority": request.priority,
            "cpus": request.need.cpus,
            "gpus": request.need.gpus,
            "memory_gib": request.need.memory_gib,
            "fingerprint": request.makes,
            "asked_at": request.asked_at,
            "seen_at": now,
            "granted_at": None,
            "may_yield": may_yield,
            "reason": "",
        }


def decide_view(view: View, policy: Policy | None = None) -> Decision:
    """While nobody knows how large a cluster is, one run starts on it, whose driver finds out."""
    if view.capacity is not None:
        return decide(view.requests, view.holders, view.capacity, now=view.now, used=view.used, policy=policy)
    found = decide(view.requests, (), UNLIMITED, now=view.now, used=view.used, policy=policy)
    driven = {holder.request.run_id for holder in view.holders}
    starts = found.starts[: 0 if driven else 1]
    unknown = "the size of the cluster, which the first run on it finds out"
    waits = {request.key: unknown for request in found.order if request not in starts}
    return replace(found, starts=starts, yields={}, waits=waits)


def ask_to_stop(connection: Connection, run_id: str, reason: str, now: float) -> None:
    """Ask the driver of a run to stop at its commit point; the queue continues the run later."""
    row = {"run_id": run_id, "reason": reason, "at": now}
    connection.execute(insert_new(connection, run_stops).values(row).on_conflict_do_nothing())


def stop_reason(database: Database, run_id: str) -> str:
    """Why a run is asked to stop; empty if it is not."""
    query = select(run_stops.c.reason).where(run_stops.c.run_id == run_id)
    return database.read(lambda connection: connection.execute(query).scalar_one_or_none()) or ""


def forget_stop(database: Database, run_id: str) -> None:
    """The run has stopped, or begins anew."""
    database.write(lambda connection: connection.execute(delete(run_stops).where(run_stops.c.run_id == run_id)))


def _pool_row(name: str, capacity: Amounts, *, seen_at: float) -> dict[str, Any]:
    def stored(amount: float) -> float:
        return min(amount, 1e15)  # as not every database keeps infinity

    return {
        "pool": name,
        "cpus": stored(capacity.cpus),
        "gpus": stored(capacity.gpus),
        "memory_gib": stored(capacity.memory_gib),
        "seen_at": seen_at,
    }


def _request(row: Any) -> Request:
    return Request(
        run_id=row.run_id,
        stage_id=row.stage_id,
        person=row.person,
        priority=row.priority,
        need=Amounts(cpus=row.cpus, gpus=row.gpus, memory_gib=row.memory_gib),
        asked_at=row.asked_at,
        makes=row.fingerprint,
    )


def _decayed(amount: float, seconds: float) -> float:
    return float(amount * 0.5 ** (max(0.0, seconds) / HALF_LIFE_S))


def _is(run_id: str, stage_id: str) -> Any:
    return (claims.c.run_id == run_id) & (claims.c.stage_id == stage_id)


def _now(connection: Connection) -> float:
    now: float = connection.execute(select(database_now())).scalar_one()
    return now
