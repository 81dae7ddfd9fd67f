"""The store that a database belongs to, by the id in the store's identity file."""

from collections.abc import Iterable

from sqlalchemy import Connection, delete, select

from orchestrator import failpoints
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import known_stores
from orchestrator.store.store import Store
from orchestrator.store.store_identity import ExpectedStore, establish, new_store


def remembered_store(database: Database) -> ExpectedStore | None:
    """The store that this database was filled from, or that is being made for it; None before the first run."""
    return database.read(_remembered)


def remember_store(database: Database, store: ExpectedStore) -> ExpectedStore:
    """Record the store that this database belongs to, and return what counts: the first, and of it what was seen."""

    def write(connection: Connection) -> ExpectedStore:
        found = _remembered(connection)
        if found is not None and (store.made_in or not found.made_in):
            return found
        connection.execute(delete(known_stores))
        connection.execute(known_stores.insert().values(store_id=store.store_id, made_in=store.made_in))
        return store

    return database.write(write)


def establish_known_store(database: Database, store: Store, stage_kinds: Iterable[str]) -> None:
    """Give the store of a database its identity if it has none. Call it after `check_store`; it can be repeated.

    Raises: UnreachableStoreError: the folder of the store was replaced meanwhile.
    """
    expected = remember_store(database, new_store(store))
    failpoints.hit("store.expected")
    identity = establish(store, stage_kinds, expected)
    failpoints.hit("store.established")
    remember_store(database, ExpectedStore(store_id=identity.store_id))


def _remembered(connection: Connection) -> ExpectedStore | None:
    row = connection.execute(select(known_stores.c.store_id, known_stores.c.made_in)).first()
    return None if row is None else ExpectedStore(store_id=row.store_id, made_in=row.made_in)
