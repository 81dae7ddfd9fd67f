"""Digests of source files remembered in the index database, for every run that uses it."""

from typing import Any

from sqlalchemy import select

from orchestrator.history.database import Database, upsert
from orchestrator.history.schema import source_digests


class DatabaseDigestCache:
    """`sources.DigestCache` in the database. Forgetting is always safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, path: str, num_bytes: int, mtime_ns: int) -> str | None:
        same_file = (source_digests.c.bytes == num_bytes) & (source_digests.c.mtime_ns == mtime_ns)
        query = select(source_digests.c.sha256).where(source_digests.c.path == _text(path), same_file)
        return self._database.read(lambda connection: connection.execute(query).scalar_one_or_none())

    def remember(self, path: str, num_bytes: int, mtime_ns: int, sha256: str) -> None:
        row: dict[str, Any] = {"path": _text(path), "bytes": num_bytes, "mtime_ns": mtime_ns, "sha256": sha256}
        self._database.write(lambda connection: connection.execute(upsert(connection, source_digests, row)))


def _text(path: str) -> str:
    """The path as valid Unicode: names of files need not be."""
    return path.encode("utf-8", "backslashreplace").decode()
