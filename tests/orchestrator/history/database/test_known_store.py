"""A database remembers the first store that it was used with."""

from pathlib import Path

from orchestrator.history.database.database import Database
from orchestrator.history.database.known_store import remember_store, remembered_store


def test_the_first_store_is_remembered(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "index.db"))
    assert remembered_store(database) is None
    remember_store(database, "a" * 32)
    remember_store(database, "b" * 32)
    database.close()
    reopened = Database(str(tmp_path / "index.db"))
    assert remembered_store(reopened) == "a" * 32
    reopened.close()
