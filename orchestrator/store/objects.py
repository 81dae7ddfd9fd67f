"""Plain values of every kind of store: keys, digests, and the objects of a listing."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StoreError

MAX_RECORD_BYTES = 256 * 1024**2  # manifests of a million files are smaller; a larger "record" is damage or an attack
CHUNK_BYTES = 4 * 1024**2  # bytes read, hashed and sent at a time


@dataclass(frozen=True, kw_only=True)
class Digest:
    """Length and SHA-256 of bytes that were read or written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    key: str
    bytes: int
    modified_s: float  # seconds since 1970, by the store's clock


def check_key(key: str) -> str:
    """`key`, if it is safe as a relative path on every kind of store.

    Raises:
        StoreError: it is empty, absolute, contains "..", a backslash or a control character.
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or any(ord(char) < 32 for char in key):
        raise StoreError(f"store key {key!r}: expected parts joined by single '/', no '.', '..' or control characters")
    return key


def file_digest(path: Path) -> Digest:
    """Length and SHA-256 of a local file, read as a stream."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest(bytes=file.tell(), sha256=sha256)
