"""Who may write: lease rows by the database's clock, and the thread that keeps them alive."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.database import Database

LEASE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to change `resource` (`run:<run id>`, `artifact:<fingerprint>`) until `expires_at`."""

    resource: str
    owner: str  # see owners.Owner
    epoch: int  # raised each time the resource changes hands; the fencing number
    expires_at: float  # by the database's clock
    duration_s: float = LEASE_S


class Leases:
    """Lease rows in the database, as seen by one owner (this object)."""

    def __init__(self, database: Database, *, owner: str | None = None) -> None:
        raise NotImplementedError

    def acquire(self, resource: str, *, duration_s: float = LEASE_S) -> Lease | None:
        """The lease, or None while somebody else holds it. An owner that provably died is replaced at once."""
        raise NotImplementedError

    def renew(self, lease: Lease) -> Lease:
        """Raises: LeaseLostError: it ran out or was taken over."""
        raise NotImplementedError

    def release(self, lease: Lease) -> None:
        """Free the resource; nothing happens if the lease was lost already."""
        raise NotImplementedError

    def holder(self, resource: str) -> Lease | None:
        """The live lease on `resource`, whoever holds it (for messages: `describe_owner(lease.owner)`)."""
        raise NotImplementedError


class LeaseKeeper:
    """Renews leases in the background; at two thirds of a lease without renewal its holder is told to stop.

    Context manager; closing does not release the leases.
    """

    def __init__(self, leases: Leases) -> None:
        raise NotImplementedError

    def keep(self, lease: Lease, on_lost: Callable[[Lease], None] | None = None) -> threading.Event:
        """Start renewing. The returned event is set, and `on_lost` called once, when the holder must stop."""
        raise NotImplementedError

    def release(self, lease: Lease) -> None:
        """Stop renewing and free the resource."""
        raise NotImplementedError
