"""Digests of the files that a stage reads from outside the store, cached until a file changes."""

import hashlib
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import select

from orchestrator.errors import RecipeError
from orchestrator.history.database import schema
from orchestrator.history.database.database import Database, upsert
from orchestrator.stage import StageSpec

READ_BYTES = 1 << 20
NUM_READERS = 4  # hashing releases the GIL, so threads run in parallel
SETTLED_S = 2.0  # a file modified more recently may change again without a new time stamp


@dataclass(frozen=True, kw_only=True)
class FileStamp:
    """What differs as soon as a file is changed or replaced, also by a tool that sets its size and time stamp."""

    path: str  # absolute, with the host before it: "host:/data/file"
    bytes: int
    mtime_ns: int
    identity: str  # inode and `ctime_ns`, which no tool can set

    @classmethod
    def of(cls, file: Path) -> "FileStamp":
        found = file.stat()
        return cls(
            path=f"{socket.gethostname()}:{file.absolute()}",
            bytes=found.st_size,
            mtime_ns=found.st_mtime_ns,
            identity=f"{found.st_ino} {found.st_ctime_ns}",
        )


class DigestCache(Protocol):
    """Caches digests of files; losing entries is always safe."""

    def find(self, stamp: FileStamp) -> str | None: ...
    def remember(self, stamp: FileStamp, sha256: str) -> None: ...


class DatabaseDigestCache:
    """`DigestCache` in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, stamp: FileStamp) -> str | None:
        row = _row(stamp)
        same_file = (schema.source_digests.c[name] == value for name, value in row.items())
        query = select(schema.source_digests.c.sha256).where(*same_file)
        return self._database.read(lambda connection: connection.execute(query).scalar_one_or_none())

    def remember(self, stamp: FileStamp, sha256: str) -> None:
        row = {**_row(stamp), "sha256": sha256}
        self._database.write(lambda connection: connection.execute(upsert(connection, schema.source_digests, row)))


def source_digests(spec: StageSpec, cache: DigestCache) -> dict[str, str]:
    """SHA-256 of every file that the stage reads from outside the store, by stable name.

    The digest of a folder covers the relative names and digests of all files below it.

    Raises:
        RecipeError: a file is missing or cannot be read, or the kind cannot list its files.
    """
    if spec.kind.sources is None:
        return {}
    where = f"stages.{spec.id}.config"
    try:
        paths = spec.kind.sources(spec.config)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where}: cannot list the files that {spec.kind.name!r} reads: {error}") from error
    files = {name: _files_below(path, f"{where} ({name})") for name, path in paths.items()}
    flat = sorted({file for found in files.values() for file in found.values()})
    with ThreadPoolExecutor(NUM_READERS) as readers:
        digests = dict(zip(flat, readers.map(lambda file: _digest(file, cache, where), flat), strict=True))
    return {name: _combined(found, digests, is_folder=paths[name].is_dir()) for name, found in files.items()}


def _files_below(path: Path, where: str) -> dict[str, Path]:
    if path.is_dir():
        return {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    if not path.exists():
        raise RecipeError(f"{where}: found no file {str(path)!r}; expected a file or folder that can be read")
    return {"": path}


def _combined(found: Mapping[str, Path], digests: Mapping[Path, str], *, is_folder: bool) -> str:
    if not is_folder:
        return digests[found[""]]
    lines = "".join(f"{digests[file]} {name}\n" for name, file in sorted(found.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _digest(file: Path, cache: DigestCache, where: str) -> str:
    try:
        before = FileStamp.of(file)
        known = cache.find(before)
        if known is not None:
            return known
        sha256 = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(READ_BYTES):
                sha256.update(block)
        after = FileStamp.of(file)
    except OSError as error:
        raise RecipeError(f"{where}: cannot read {str(file)!r}: {error.strerror or error}") from error
    if after != before:
        raise RecipeError(f"{where}: {str(file)!r} changed while it was read; plan again when it is complete")
    if time.time_ns() - after.mtime_ns > SETTLED_S * 1e9:
        cache.remember(after, sha256.hexdigest())
    return sha256.hexdigest()


def _row(stamp: FileStamp) -> dict[str, Any]:
    return {**asdict(stamp), "path": _valid_unicode(stamp.path)}


def _valid_unicode(path: str) -> str:
    """The path as valid Unicode, which file names need not be."""
    return path.encode("utf-8", "backslashreplace").decode()
