"""Plain values of every kind of store: keys, digests, and the objects of a listing."""

import hashlib
import re
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from orchestrator.constraints import KEY_EXPECTED, KEY_PATTERN
from orchestrator.errors import StoreError

MAX_RECORD_BYTES = 256 * 1024**2  # manifests of a million files are smaller; a larger "record" is damage or an attack
CHUNK_BYTES = 4 * 1024**2  # bytes read, hashed and sent at a time
SMALL_BYTES = 64 * 1024  # of a file that is read in one piece
IDENTITY = "STORE.json"  # of a store, see store_identity.py

_KEY = re.compile(KEY_PATTERN)


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


def is_key(key: str) -> bool:
    """Whether `key` is safe as a relative path on every kind of store; see `check_key`."""
    return bool(_KEY.fullmatch(key))


def check_key(key: str) -> str:
    """`key`, if it is safe as a relative path on every kind of store.

    Raises:
        StoreError: it is empty, absolute, contains "..", a backslash or a control character.
    """
    if not is_key(key):
        raise StoreError(f"store key {key!r}: expected {KEY_EXPECTED}")
    return key


def file_digest(path: Path) -> Digest:
    """Length and SHA-256 of a local file, read as a stream."""
    with open(path, "rb", buffering=0) as file:
        return open_file_digest(file)


def open_file_digest(file: FileIO) -> Digest:
    """`file_digest` of a file that is open at its start, without buffering."""
    begin = file.read(SMALL_BYTES)
    if len(begin) < SMALL_BYTES and not file.read(1):  # the usual way takes a buffer that is larger than the file
        return Digest(bytes=len(begin), sha256=hashlib.sha256(begin).hexdigest())
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Digest(bytes=file.tell(), sha256=sha256)
