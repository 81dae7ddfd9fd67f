"""The servers that look after the queue, each known by a lease that it renews."""

from sqlalchemy import select

from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import database_now, leases
from orchestrator.history.lease_owners import describe, is_gone

SERVER = "scheduler:"  # before the name of a server, in the name of its lease


def live_servers(database: Database) -> list[str]:
    """Who they are, for people."""
    is_live = (leases.c.owner != "") & (leases.c.expires_at > database_now()) & leases.c.resource.startswith(SERVER)
    query = select(leases.c.owner).where(is_live).order_by(leases.c.resource)
    owners = database.read(lambda connection: list(connection.execute(query).scalars()))
    return [describe(owner) for owner in owners if not is_gone(owner)]
