"""A database remembers the first store that it was used with, also one that was made before it could."""

from pathlib import Path

from sqlalchemy import text

from orchestrator.history.database import Database
from orchestrator.history.known_store import remember_store, remembered_store


def test_the_first_store_is_remembered(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "index.db"))
    assert remembered_store(database) is None
    remember_store(database, "a" * 32)
    remember_store(database, "b" * 32)
    database.close()
    reopened = Database(str(tmp_path / "index.db"))
    assert remembered_store(reopened) == "a" * 32
    reopened.close()


def test_a_database_of_an_older_version_gets_the_table(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "index.db"))
    database.write(lambda connection: connection.execute(text("drop table known_stores")))
    database.close()
    reopened = Database(str(tmp_path / "index.db"))
    assert remembered_store(reopened) is None
    reopened.close()
