"""Leases: rows that give one holder the right to write, and the threads that renew them.

Rule: expiry is decided by the database's clock alone. The holder counts by its own clock, from before it sent the
request, and stops at two thirds of the lease, so it stops before another holder can start.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Update, bindparam, delete, select, update

from orchestrator import failpoints
from orchestrator.errors import DatabaseError, LeaseLostError
from orchestrator.history import lease_owners as owners
from orchestrator.history.database.database import Database, insert_if_new, insert_new
from orchestrator.history.database.schema import database_now, leases

LEASE_S = 60.0
RENEW_SHARE = 1 / 4  # of the lease between two renewals: two may fail before the holder stops
STOP_SHARE = 2 / 3  # of the lease without a renewal, after which the holder stops
LOOKS = 60  # at the clock, in the time of the shortest lease

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to change `resource` (`run:<run id>`, `artifact:<fingerprint>`) until `expires_at`."""

    resource: str
    owner: str  # text of a `LeaseOwner`
    epoch: int  # fencing number, raised each time the resource gets a new holder
    expires_at: float  # by the database's clock
    duration_s: float = LEASE_S


@dataclass(frozen=True, kw_only=True)
class LastHolder:
    """A lease that was not released."""

    lease: Lease
    is_expired: bool  # by the database's clock


class Leases:
    """Acquires leases for this process in the database. A lease excludes every other lease of its resource."""

    def __init__(self, database: Database, *, owner: owners.LeaseOwner | None = None) -> None:
        self._database = database
        self._owner = owners.this_process() if owner is None else owner

    def acquire(self, resource: str, *, duration_s: float = LEASE_S) -> Lease | None:
        """The lease, or None while another owner holds it. An owner that provably died is replaced at once."""
        owner = owners.with_claim(self._owner)

        def work(connection: Connection) -> Lease | None:
            _ensure_row(connection, resource)
            row = connection.execute(_LIVE, {"of_resource": resource}).one_or_none()
            if row is not None and row.owner != owner:  # equal: our first try succeeded but its reply was lost
                if not owners.is_gone(row.owner):
                    return None
                log.warning("lease %s: taken over from %s, which no longer runs", resource, owners.describe(row.owner))
            if row is None or row.owner != owner:
                values = {"of_resource": resource, "new_owner": owner, "of_duration_s": duration_s}
                row = connection.execute(_TAKE, values).one()
            return _lease(row, duration_s)

        lease = self._database.write(work)
        failpoints.hit("lease.acquired")
        return lease

    def renew(self, lease: Lease) -> Lease:
        """The lease with a new expiry time. Raises: LeaseLostError: it expired or was taken over."""

        renewed = self._extend(lease, _RENEW, "expired or was taken over before it was renewed")
        failpoints.hit("lease.renewed")
        return renewed

    def revive(self, lease: Lease) -> Lease:
        """Renew a lease although it may have expired, which is safe as long as nobody has taken it.

        Raises: LeaseLostError: it was taken over or released.
        """
        return self._extend(lease, _REVIVE, "was taken over or released")

    def _extend(self, lease: Lease, statement: Update, problem: str) -> Lease:
        values = {**_named(lease), "of_duration_s": lease.duration_s}
        expires_at = self._database.write(lambda connection: connection.execute(statement, values).scalar_one_or_none())
        if expires_at is None:
            raise LeaseLostError(f"lease {lease.resource}: {problem}")
        return replace(lease, expires_at=expires_at)

    def raise_epoch(self, resource: str, epoch: int) -> int:
        """Let the next lease of a resource have an epoch above `epoch`. Returns the epoch that the database knew."""

        def work(connection: Connection) -> int:
            known = _ensure_row(connection, resource)
            raise_lease_epoch(connection, resource, epoch)
            return known

        return self._database.write(work)

    def release(self, lease: Lease, *, forget: bool = False) -> None:
        """Free the resource; does nothing if the lease is already lost.

        `forget` also deletes the row and its epoch count; only for resources whose epochs are not used for fencing.
        """
        statement: Any = _FORGET if forget else _RELEASE
        self._database.write(lambda connection: connection.execute(statement, _named(lease)))

    def holder(self, resource: str) -> Lease | None:
        """The live lease on `resource`, of any holder (for messages: `owners.describe(lease.owner)`)."""
        named = {"of_resource": resource}
        row = self._database.read(lambda connection: connection.execute(_LIVE, named).one_or_none())
        return None if row is None else _lease(row, LEASE_S)

    def last_holder(self, resource: str) -> LastHolder | None:
        """The newest lease on `resource`, also if it has expired; None if it was released, or never taken."""
        query = select(leases, (leases.c.expires_at <= database_now()).label("is_expired"))
        query = query.where(leases.c.resource == resource, leases.c.owner != "")
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else LastHolder(lease=_lease(row, LEASE_S), is_expired=bool(row.is_expired))

    def machine_seen(self, owner: str) -> tuple[str, float, float]:
        """(name, seconds since, time) of the last renewal of any lease by a process of the owner's machine.

        By the database's clock. The name is empty for this machine, and for one that is not known.
        """
        machine = owners.machine_of(owner)
        if machine is None or machine == owners.machine_of(owners.this_process().text()):
            return "", 0.0, 0.0
        query = select(leases.c.owner, leases.c.expires_at, database_now().label("now")).where(leases.c.owner != "")
        rows = self._database.read(lambda connection: connection.execute(query).all())
        renewed = [row.expires_at - LEASE_S for row in rows if owners.machine_of(row.owner) == machine]
        at = max(renewed, default=0.0)
        now = max((row.now for row in rows), default=at)
        return machine[1], now - at, at

    def unreleased(self, prefix: str) -> set[str]:
        """The resources with this prefix whose newest lease was not released, also those whose lease has expired."""
        query = select(leases.c.resource).where(leases.c.resource.startswith(prefix, autoescape=True))
        query = query.where(leases.c.owner != "")
        return self._database.read(lambda connection: set(connection.execute(query).scalars()))


def raise_lease_epoch(connection: Connection, resource: str, epoch: int) -> None:
    """Raise the epoch of a lease to at least `epoch`. A holder with a lower one loses it."""
    row = {"resource": resource, "owner": "", "epoch": epoch, "expires_at": 0.0}
    lower, changes = leases.c.epoch < epoch, {"epoch": epoch}
    statement = insert_new(connection, leases).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["resource"], set_=changes, where=lower))


def require_lease(connection: Connection, lease: Lease) -> None:
    """Lock the row of a live lease until the transaction ends. Raises: LeaseLostError: it is not live any more."""
    row = connection.execute(_LOCK_LIVE, _named(lease)).one_or_none()
    if row is None:
        raise LeaseLostError(f"lease {lease.resource}: expired or was taken over; start again with `illume run`")


def release_lease(connection: Connection, lease: Lease) -> None:
    """`Leases.release` as part of a transaction: with the change after which the lease is not needed any more."""
    connection.execute(_RELEASE, _named(lease))


def _lease(row: Any, duration_s: float) -> Lease:
    return Lease(
        resource=row.resource, owner=row.owner, epoch=row.epoch, expires_at=row.expires_at, duration_s=duration_s
    )


def _named(lease: Lease) -> dict[str, Any]:
    """The parameters of `_IS`."""
    return {"of_resource": lease.resource, "of_owner": lease.owner, "of_epoch": lease.epoch}


# Made once, as each stage and each delivery to a sink needs them: to make one takes longer than to carry it out.
_OF_RESOURCE = leases.c.resource == bindparam("of_resource")
_IS = _OF_RESOURCE & (leases.c.owner == bindparam("of_owner")) & (leases.c.epoch == bindparam("of_epoch"))
_UNTIL = database_now() + bindparam("of_duration_s", type_=leases.c.expires_at.type)
_LIVE = select(leases).where(_OF_RESOURCE, leases.c.owner != "", leases.c.expires_at > database_now())
_LOCK_LIVE = _LIVE.where(_IS).with_for_update()
_LOCK = select(leases.c.epoch).where(_OF_RESOURCE).with_for_update()
_TAKE = (
    update(leases)
    .where(_OF_RESOURCE)
    .values(owner=bindparam("new_owner"), epoch=leases.c.epoch + 1, expires_at=_UNTIL)
    .returning(leases)
)
_REVIVE = update(leases).where(_IS).values(expires_at=_UNTIL).returning(leases.c.expires_at)
_RENEW = _REVIVE.where(leases.c.expires_at > database_now())
_RELEASE = update(leases).where(_IS).values(owner="", expires_at=0.0)
_FORGET = delete(leases).where(_IS)


def _ensure_row(connection: Connection, resource: str) -> int:
    """Create the row if it is missing and lock it, so that concurrent acquirers run one after the other.

    Returns its epoch.
    """
    row = {"resource": resource, "owner": "", "epoch": 0, "expires_at": 0.0}
    connection.execute(insert_if_new(leases, connection.dialect.name), row)
    epoch: int = connection.execute(_LOCK, {"of_resource": resource}).scalar_one()
    return epoch


def boot_clock() -> float:
    """Seconds of a clock that also runs while the machine sleeps, if the system has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass
class _Kept:
    lease: Lease
    renewed_at: float  # by our clock, before the renewal was requested
    lost: threading.Event
    on_lost: Callable[[Lease], None] | None
    until_taken: bool
    is_overdue: bool = False  # not renewed in time, but kept because of `until_taken`


class LeaseKeeper:
    """Renews leases in the background; at two thirds of a lease without renewal it signals the holder to stop.

    One thread renews, another one watches the clock, so that a hanging database cannot hide the loss.
    Context manager; closing does not release the leases.
    """

    def __init__(self, leases: Leases, *, clock: Callable[[], float] = boot_clock) -> None:
        self._leases = leases
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Condition()  # notified when a lease is added, and on close
        self._closed = False
        self._threads = [
            threading.Thread(target=self._loop, args=(step,), name=f"leases-{step.__name__}", daemon=True)
            for step in (self._renew_due, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "LeaseKeeper":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def now(self) -> float:
        """The clock of `keep`; read it before a lease is asked for."""
        return self._clock()

    def keep(
        self,
        lease: Lease,
        on_lost: Callable[[Lease], None] | None = None,
        *,
        until_taken: bool = False,
        asked_at: float | None = None,
    ) -> threading.Event:
        """Start to renew a lease just acquired.

        When the holder must stop, the returned event is set and `on_lost` is called once in its own thread.
        `until_taken`: go on without renewals, e.g. while the database is away, until another holder has the lease.
        Only for holders whose work runs elsewhere and whose writes are behind their epoch in the store.
        `asked_at`: by `now`, from before the lease was asked for; if it is unknown or long ago, the lease is renewed.
        """
        now = self._clock()
        is_fresh = asked_at is not None and now - asked_at < lease.duration_s * RENEW_SHARE
        kept = _Kept(
            lease, asked_at if asked_at is not None and is_fresh else now, threading.Event(), on_lost, until_taken
        )
        try:
            kept.lease = lease if is_fresh else self._leases.renew(lease)
        except LeaseLostError:
            self._lose(kept, "was lost before it could be kept")
            return kept.lost
        with self._lock:
            self._kept[lease.resource] = kept
            self._lock.notify_all()
        return kept.lost

    def release(self, lease: Lease) -> None:
        """Stop renewing and free the resource."""
        self.stop(lease)
        self._leases.release(lease)

    def stop(self, lease: Lease) -> None:
        """Stop renewing a lease that the caller releases."""
        with self._lock:
            self._kept.pop(lease.resource, None)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _loop(self, step: Callable[[], None]) -> None:
        while not self._closed:
            step()
            with self._lock:
                if not self._closed:
                    shortest_s = min((kept.lease.duration_s for kept in self._kept.values()), default=LEASE_S)
                    self._lock.wait(shortest_s / LOOKS)

    def _current(self) -> list[_Kept]:
        with self._lock:
            return list(self._kept.values())

    def _renew_due(self) -> None:
        for kept in self._current():
            requested_at = self._clock()
            if requested_at - kept.renewed_at < kept.lease.duration_s * RENEW_SHARE:
                continue
            try:
                renewed = self._renew(kept)
            except LeaseLostError as error:
                self._lose(kept, str(error))
            except DatabaseError as error:
                log.warning("lease %s: not renewed: %s", kept.lease.resource, error)
            else:
                kept.lease, kept.renewed_at, kept.is_overdue = renewed, requested_at, False

    def _renew(self, kept: _Kept) -> Lease:
        try:
            return self._leases.renew(kept.lease)
        except LeaseLostError:
            if not kept.until_taken:
                raise
            return self._leases.revive(kept.lease)

    def _watch(self) -> None:
        for kept in self._current():
            age_s = self._clock() - kept.renewed_at
            if age_s < kept.lease.duration_s * STOP_SHARE:
                continue
            if not kept.until_taken:
                self._lose(kept, f"not renewed for {age_s:.0f} s of its {kept.lease.duration_s:.0f} s")
            elif not kept.is_overdue:
                kept.is_overdue = True
                log.warning(
                    "lease %s: not renewed for %.0f s; its jobs keep running and are followed until the database "
                    "answers or another driver takes over",
                    kept.lease.resource,
                    age_s,
                )

    def _lose(self, kept: _Kept, reason: str) -> None:
        with self._lock:
            is_first = not kept.lost.is_set()
            kept.lost.set()
            if self._kept.get(kept.lease.resource) is kept:
                del self._kept[kept.lease.resource]
        if is_first:
            log.error("lease %s: %s; stopping what depends on it", kept.lease.resource, reason)
            if kept.on_lost is not None:
                threading.Thread(target=kept.on_lost, args=(kept.lease,), name="lease-lost", daemon=True).start()
