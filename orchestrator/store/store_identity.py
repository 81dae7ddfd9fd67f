"""Which store this is, and whether all of it is there.

`STORE.json` names the store; the database remembers the name. On a disk, folders that may be mounts of their own carry
a marker, and `folders/` lists them:

    STORE.json            {format, store_id, created}
    folders/<name>        the folders that carry a marker, `/` written as `.`
    <folder>/STORE        the marker: the store's id

Rule: where the identity, or a marker that is on record, is missing, the store or a part of it is not there (not
mounted, a listing that lags). Nothing is concluded from what cannot be seen then: nothing is made again,
retracted or deleted. Stores of older versions have no identity until the next run gives them one.

A new store: the database is told its id and its folder first (`ExpectedStore.made_in`), then `STORE.json` is written.
Whoever comes meanwhile makes the same store in the same folder, or nothing: the empty folder below a mount that is away
is another one.
"""

import socket
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from orchestrator.artifact import JSON
from orchestrator.backends.local_store import make_folders
from orchestrator.documents.typed_json import parse_record
from orchestrator.errors import ForeignStoreError, UnreachableStoreError
from orchestrator.store.layout import ARTIFACTS, FOLDERS, IDENTITY, MARKER, PLANS, RUNS, SHARDS, USES
from orchestrator.store.store import Store, record_bytes
from orchestrator.times import short_time

IDENTITY_FORMAT = 1
TOP_FOLDERS = (ARTIFACTS, SHARDS, PLANS, RUNS, USES)


@dataclass(frozen=True, kw_only=True)
class StoreIdentity:
    """The content of `STORE.json`."""

    format: Literal[1]
    store_id: str  # 32 hexadecimal digits
    created: str  # ISO 8601, UTC; informative only


@dataclass(frozen=True, kw_only=True)
class ExpectedStore:
    """The store that a database belongs to."""

    store_id: str
    made_in: str = ""  # `folder_of` the store that is being made; empty: its identity has been seen


def new_store(store: Store) -> ExpectedStore:
    """What a database is told of a store that no run has used, before anything is written there but its folder.

    A store that has an identity keeps it.
    """
    identity = read_identity(store)
    if identity is not None:
        return ExpectedStore(store_id=identity.store_id)
    root = store.local("")
    if root is not None:
        make_folders(root)
    return ExpectedStore(store_id=uuid.uuid4().hex, made_in=folder_of(store))


def folder_of(store: Store) -> str:
    """Which folder is seen at the address of a store; the address where there is none. Empty: nothing is there.

    Raises: UnreachableStoreError: it cannot be looked at.
    """
    root = store.local("")
    if root is None:
        return store.url
    try:
        return f"inode {root.stat().st_ino}"  # the same on all nodes of a shared file system, unlike the device
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UnreachableStoreError(
            f"{store.url}: {error.strerror}. Is the folder mounted? Nothing was changed"
        ) from error


def read_identity(store: Store) -> StoreIdentity | None:
    """The identity of a store; None if it has none yet, or is not there.

    Raises:
        NewerFormatError: a newer version has written it.
        CorruptArtifactError: it cannot be parsed; the message names the file.
    """
    data = store.get(IDENTITY)
    return None if data is None else parse_record(StoreIdentity, data, f"{store.url}: {IDENTITY}")


def establish(store: Store, stage_kinds: Iterable[str] = (), expected: ExpectedStore | None = None) -> StoreIdentity:
    """Give a store its identity if it has none, and mark the folders of `stage_kinds`. Can be repeated.

    Call it only after `check_store`: in a store that is not mounted it would name the empty folder below the mount.

    Raises: UnreachableStoreError: the folder is not that of `expected` any more.
    """
    identity = read_identity(store)
    if identity is None:
        created, store_id = short_time(time.time()), expected.store_id if expected else uuid.uuid4().hex
        record: dict[str, JSON] = {"format": IDENTITY_FORMAT, "store_id": store_id, "created": created}
        store.put_new(IDENTITY, record_bytes(record))
        identity = read_identity(store)
        if identity is None:
            raise UnreachableStoreError(f"{store.url}: '{IDENTITY}' was written and cannot be read; try again")
    if expected:
        _check_folder(store, expected)
    if store.is_local:
        _mark_folders(store, identity, stage_kinds)
    return identity


def _mark_folders(store: Store, identity: StoreIdentity, stage_kinds: Iterable[str]) -> None:
    known = set(_marked_folders(store))
    kinds = {*stage_kinds, *store.folders(ARTIFACTS), *store.folders(SHARDS)}
    folders = {*TOP_FOLDERS, *(f"{top}/{kind}" for top in (ARTIFACTS, SHARDS) for kind in kinds)}
    for folder in sorted(folders - known):  # the marker first: a folder on record has one
        store.put_new(f"{folder}/{MARKER}", identity.store_id.encode())
        store.put_new(f"{FOLDERS}/{folder.replace('/', '.')}", folder.encode())


def check_store(store: Store, expected: ExpectedStore | None) -> None:
    """Make sure that the store is the one that is expected, and that all its folders are there. Changes nothing.

    Raises:
        UnreachableStoreError: it, or one of its folders, is not there.
        ForeignStoreError: it is another store.
    """
    identity = read_identity(store)
    if expected is not None and expected.made_in:
        _check_folder(store, expected)
    elif expected is not None and identity is None:
        raise UnreachableStoreError(
            f"{store.url}: found no '{IDENTITY}', expected that of store {expected.store_id}, which this database "
            "belongs to. Is the folder mounted, is it the right address? Nothing was changed"
        )
    elif expected is not None and identity is not None and identity.store_id != expected.store_id:
        raise ForeignStoreError(
            f"{store.url}: '{IDENTITY}' says store {identity.store_id}, expected {expected.store_id}, which this "
            "database belongs to. Name the right --store, or another --database and then `illume index rebuild`"
        )
    if identity is not None:
        check_folders(store, identity)


def _check_folder(store: Store, expected: ExpectedStore) -> None:
    """Raises: UnreachableStoreError: the store is being made in another folder than the one that is seen here."""
    found = folder_of(store)
    if expected.made_in and found != expected.made_in:
        raise UnreachableStoreError(
            f"{store.url}: found {found or 'nothing'}, expected {expected.made_in}, in which store {expected.store_id} "
            "is being made for this database. Is the folder mounted, is it the right address? Nothing was changed. If "
            "no store is there yet, delete the database, which holds no run, and start again"
        )


def check_on_this_node(store: Store, store_id: str) -> None:
    """Make sure that a process of an attempt sees the store that its driver sees. Buckets are the same everywhere.

    Raises: UnreachableStoreError: the folder is not mounted on this node, or another one is.
    """
    if not (store_id and store.is_local):
        return
    identity = read_identity(store)
    if identity is None or identity.store_id != store_id:
        found = "no store" if identity is None else f"store {identity.store_id}"
        raise UnreachableStoreError(
            f"{store.url} on node {socket.gethostname()}: found {found}, expected {store_id}, which the driver of this "
            f"attempt sees there ('{IDENTITY}'). Mount the folder on every node; nothing was written here"
        )


def check_folders(store: Store, identity: StoreIdentity | None = None) -> None:
    """Make sure that every folder on record is there, so that what is missing below it is really missing.

    Raises:
        UnreachableStoreError: a folder is not mounted, or is another store's.
    """
    if not store.is_local:
        return
    identity = identity or read_identity(store)
    if identity is None:
        return
    for folder in _marked_folders(store):
        found = store.get(f"{folder}/{MARKER}")
        if found is None or found.decode(errors="replace").strip() != identity.store_id:
            state = "no marker" if found is None else "the marker of another store"
            raise UnreachableStoreError(
                f"{store.url}: folder '{folder}': found {state}, expected '{folder}/{MARKER}' of store "
                f"{identity.store_id}. Is it mounted? Nothing was changed. If it was deleted on purpose, delete "
                f"'{FOLDERS}/{folder.replace('/', '.')}' too"
            )


def _marked_folders(store: Store) -> list[str]:
    """The folders that are on record as carrying a marker."""
    names = [item.key.removeprefix(f"{FOLDERS}/") for item in store.list(FOLDERS)]
    return [name.replace(".", "/", 1) for name in names]
