"""The store that a database belongs to, by the id in the store's identity file."""

from sqlalchemy import Connection, select

from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import known_stores


def remembered_store(database: Database) -> str | None:
    """The id of the store that this database was filled from; None before the first run."""
    query = select(known_stores.c.store_id)
    return database.read(lambda connection: connection.execute(query).scalars().first())


def remember_store(database: Database, store_id: str) -> None:
    """Record the store that this database belongs to. The first one counts; another is found when it is opened."""

    def insert(connection: Connection) -> None:
        if connection.execute(select(known_stores.c.store_id)).first() is None:
            connection.execute(known_stores.insert().values(store_id=store_id))

    database.write(insert)
