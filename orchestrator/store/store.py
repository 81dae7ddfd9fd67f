"""What a store can do, how one is opened from its address, and the probe that refuses a store that cannot be trusted.

A store holds immutable objects under keys ("a/b/c"). The one rule that everything rests on: `put_new` never replaces.
"""

import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from orchestrator.artifact import JSON
from orchestrator.errors import CorruptArtifactError, RecipeError, StoreError, UnfitStoreError
from orchestrator.identity import canonical_json
from orchestrator.store.local_store import LocalStore
from orchestrator.store.object_store import REMOTE_SCHEMES, ObjectStore
from orchestrator.store.objects import Digest, StoredObject

log = logging.getLogger(__name__)

PROBE_FOLDER = "probe"
MIN_FREE_BYTES = 16 * 1024**2  # room for thousands of records; a store with less cannot commit anything useful


class Store(Protocol):
    """Objects by key. Can be pickled; safe to use from several threads. Every failure is a `StoreError`."""

    @property
    def url(self) -> str:
        """The address for messages and for opening it again; holds no secrets."""

    @property
    def is_local(self) -> bool: ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Create `key` if it does not exist, durably and all at once. True: the object is ours.

        After an unknown outcome (a time-out, a lost reply) the object is read back and compared with `data`, so data
        that must tell its writer apart holds a nonce.
        """

    def get(self, key: str) -> bytes | None:
        """The bytes of a record; None if there is no such object."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object below the folder `prefix`, at any depth, by key."""

    def folders(self, prefix: str) -> tuple[str, ...]:
        """The names of the folders directly below the folder `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Delete an object; one that is gone already is fine."""

    def upload(self, path: Path, key: str) -> Digest:
        """Copy a local file in under a key that nobody else uses; the digest is of the bytes that were sent."""

    def download(self, key: str, path: Path) -> Digest | None:
        """Copy an object out to a new local file; None if there is no such object."""

    def digest(self, key: str) -> Digest | None:
        """Read an object to its end and hash it; None if there is no such object."""

    def link(self, source: str, target: str) -> None:
        """Make a second key for an object without moving its bytes through this machine, where the store can."""

    def local(self, key: str) -> Path | None:
        """Where the object lies as a file of this machine; None for a remote store."""


def open_store(url: str | Path) -> Store:
    """The store at a local path, `file://...`, `s3://bucket/prefix?endpoint=http://...`, `gs://...` or `az://...`.

    Credentials come from the environment, never from the address. Nothing is written; call `probe` before trusting it.

    Raises:
        RecipeError: the address cannot be understood.
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
    """Check by doing that the store can be written, read and listed, and refuses a second create of one key.

    Leaves nothing behind. Takes one round of a few small requests.

    Raises:
        StoreError: it cannot be used.
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
            "Free some space (`illume gc` lists what can go) or choose another store"
        )


def _delete_probe(store: Store, key: str) -> None:
    try:
        store.delete(key)
    except StoreError as error:
        log.warning("probe object left behind: %s", error)


def record_bytes(record: dict[str, JSON]) -> bytes:
    """A record as it lies in the store: canonical JSON and a line end."""
    return canonical_json(record).encode() + b"\n"


def read_record(store: Store, key: str) -> dict[str, JSON] | None:
    """The JSON object at `key`; None if there is none.

    Raises:
        CorruptArtifactError: it is something else.
    """
    data = store.get(key)
    return None if data is None else parse_record(data, f"{store.url}: {key}")


def parse_record(data: bytes, where: str) -> dict[str, JSON]:
    """Decode a JSON object; `where` names it in the message.

    Raises:
        CorruptArtifactError: the bytes are no JSON object.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptArtifactError(f"{where}: found {len(data)} bytes that are not JSON ({error})") from error
    if not isinstance(record, dict):
        raise CorruptArtifactError(f"{where}: found a JSON {type(record).__name__}, expected an object")
    return record


def put_same(store: Store, key: str, data: bytes) -> None:
    """Create `key` with `data`, or find that it holds exactly `data` already.

    Raises:
        StoreError: it holds something else.
    """
    if not store.put_new(key, data) and store.get(key) != data:
        raise StoreError(f"{store.url}: '{key}' exists with other content; expected it to be written once")
