"""The `Store` protocol, opening a store from its address, the probe that rejects unfit stores, and records as JSON.

A store maps keys ("a/b/c") to immutable objects. Rule that everything depends on: `put_new` never replaces.
"""

import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from orchestrator.artifact import JSON, Chunks
from orchestrator.backends.local_store import LocalStore
from orchestrator.backends.object_store import REMOTE_SCHEMES, ObjectStore
from orchestrator.backends.objects import Digest, StoredObject
from orchestrator.documents.typed_json import parse_object
from orchestrator.errors import RecipeError, StoreError, UnfitStoreError
from orchestrator.redaction.masking import mask_secrets

log = logging.getLogger(__name__)

PROBE_FOLDER = "probe"
MIN_FREE_BYTES = 16 * 1024**2  # enough for thousands of records; with less no useful commit is possible


class Store(Protocol):
    """Objects by key. Can be pickled; safe to use from several threads. Every failure is a `StoreError`."""

    @property
    def url(self) -> str:
        """The address, for messages and for `open_store`; contains no secrets."""

    @property
    def is_local(self) -> bool: ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Create `key` durably and atomically if it does not exist. True: this call created it.

        After an unknown outcome (a time-out, a lost reply) the object is read back and compared with `data`; data whose
        writer must be distinguishable therefore contains a nonce.
        """

    def get(self, key: str) -> bytes | None:
        """The bytes of a record; None if it does not exist."""

    def get_range(self, key: str, start: int, size: int) -> bytes | None:
        """At most `size` bytes of an object of any length from `start` on, unverified; None if it does not exist."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object below the folder `prefix`, at any depth, sorted by key."""

    def folders(self, prefix: str) -> tuple[str, ...]:
        """The names of the folders directly below the folder `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Delete an object; does nothing if it does not exist."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects, with few requests where the store can; does nothing for those that do not exist."""

    def upload(self, path: Path, key: str) -> Digest:
        """Copy a local file to a key that no other writer uses; returns the digest of the bytes sent."""

    def write(self, key: str, chunks: Chunks, size: int) -> Digest:
        """Create an object of `size` bytes at a key that no other writer uses, hashed while it is sent.

        `chunks` is called again if the transfer has to be repeated.
        """

    def download(self, key: str, path: Path) -> Digest | None:
        """Copy an object to a local file; None if it does not exist.

        The file may hold the beginning of the object, from a call that was cut off.
        """

    def digest(self, key: str) -> Digest | None:
        """Read and hash a whole object; None if it does not exist."""

    def link(self, source: str, target: str) -> None:
        """Give an object a second key, where possible without moving its bytes through this machine."""

    def local(self, key: str) -> Path | None:
        """The local file of an object; None for a remote store."""


def open_store(url: str | Path) -> Store:
    """The store at a local path, `file://...`, `s3://bucket/prefix?endpoint=http://...`, `gs://...` or `az://...`.

    Credentials come from the environment, never from the address. Writes nothing; call `probe` before use.

    Raises:
        RecipeError: the address is not valid.
    """
    text = str(url)
    scheme = urlsplit(text).scheme
    if "://" not in text:
        return LocalStore(Path(text))
    if scheme == "file":
        return LocalStore(Path(text.removeprefix("file://")))
    if scheme in REMOTE_SCHEMES:
        return ObjectStore.connect(text)
    expected = ", ".join(["a local path", "file://", *(f"{name}://" for name in REMOTE_SCHEMES)])
    raise RecipeError(f"store: found an address that starts with '{scheme}://'; expected {expected}")


def probe(store: Store) -> None:
    """Test that the store can be written, read and listed, and that it refuses a second create of one key.

    Deletes its test object. Takes a few small requests.

    Raises:
        StoreError: the store cannot be used.
        UnfitStoreError: it ignores put-if-absent, which would let two drivers overwrite each other.
    """
    folder = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
    key = f"{folder}/first"
    first, second = (f"{name} {uuid.uuid4().hex}".encode() for name in ("first", "second"))
    _check_free_space(store)
    if not store.put_new(key, first):
        raise StoreError(f"{store.url}: refused to create the new key '{key}'; expected it to be created")
    try:
        refused = not store.put_new(key, second)
        found = store.get(key)
        if not refused or found != first:
            raise UnfitStoreError(
                f"{store.url}: this store ignores put-if-absent: the second create of '{key}' replaced the first. "
                "Expected it to be refused; without that two runs can destroy each other's work. "
                "Use a local folder or a store that honours 'If-None-Match: *' (Amazon S3, GCS, Azure, recent MinIO)"
            )
        if [item.key for item in store.list(folder)] != [key]:
            raise StoreError(f"{store.url}: '{key}' was written but is not listed; expected it at once")
    finally:
        _delete_probe(store, key)


def _check_free_space(store: Store) -> None:
    root = store.local("")
    if root is None:
        return
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    if free < MIN_FREE_BYTES:
        raise StoreError(
            f"{store.url}: the disk is full: found {free:,} bytes free, expected at least {MIN_FREE_BYTES:,}. "
            "Free some space (`illume gc` lists what can be deleted) or choose another store"
        )


def _delete_probe(store: Store, key: str) -> None:
    try:
        store.delete(key)
    except StoreError as error:
        log.warning("probe object left behind: %s", error)


def record_bytes(record: dict[str, JSON]) -> bytes:
    """The stored form of a record: canonical JSON without secrets, and a line end."""
    masked = mask_secrets(record)
    text = json.dumps(masked, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def read_record(store: Store, key: str) -> dict[str, JSON] | None:
    """The JSON object at `key`; None if it does not exist.

    Raises:
        CorruptArtifactError: the object is not a JSON object.
    """
    data = store.get(key)
    return None if data is None else parse_object(data, f"{store.url}: {key}")


def put_same(store: Store, key: str, data: bytes) -> None:
    """Create `key` with `data`; does nothing if it already contains exactly `data`.

    Raises:
        StoreError: it contains something else.
    """
    if not store.put_new(key, data) and store.get(key) != data:
        raise StoreError(f"{store.url}: '{key}' exists with other content; expected it to be written once")
