"""Fences: which records of a stage attempt that was aborted count, as a write-once list.

An attempt is aborted by ABORT in its OUTCOME. Its writers read that right before each write, but a write that had
passed this check may still arrive, seconds or days later. So whoever continues lists in FENCE, after the ABORT, the
records that have arrived; a record of the attempt that is not listed never counts, for any reader.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from orchestrator.artifact import JSON
from orchestrator.documents.typed_json import parse_record
from orchestrator.store.store import Store, record_bytes

FENCE_FORMAT = 1
FENCE = "FENCE"  # name in the folder of the attempt


@dataclass(frozen=True, kw_only=True)
class _FenceRecord:
    """The persisted fence of an attempt."""

    format: Literal[1]
    records: tuple[str, ...]  # keys


class Fences:
    """The fences of the stage attempts below `owners`, each read once: make a new object for each operation."""

    def __init__(self, store: Store, owners: str) -> None:
        """`owners`: folder of the stage attempts; "" where nobody's records can be fenced."""
        self._store, self._owners = store, owners
        self._listed: dict[str, frozenset[str] | None] = {}

    def counts(self, owner: str, key: str) -> bool:
        """Whether the record at `key`, written by the attempt `owner` ("" if unknown), is to be followed.

        Raises:
            CorruptArtifactError: the fence of the attempt cannot be read.
        """
        if not self._owners or not owner:
            return True
        if owner not in self._listed:
            self._listed[owner] = read_fence(self._store, self._owners, owner)
        listed = self._listed[owner]
        return listed is None or key in listed


def read_fence(store: Store, owners: str, owner: str) -> frozenset[str] | None:
    """Keys of the attempt's records that count; None if the attempt has no fence, so that all of them count.

    Raises:
        CorruptArtifactError, NewerFormatError: the fence cannot be read, so it is unknown which records count.
    """
    key = f"{owners}/{owner}/{FENCE}"
    data = store.get(key)
    return None if data is None else frozenset(parse_record(_FenceRecord, data, f"{store.url}: {key}").records)


def put_fence(store: Store, owners: str, owner: str, records: Iterable[str]) -> None:
    """Write the fence of an attempt that was aborted before; the first one is final."""
    listed: list[JSON] = [*sorted(records)]
    nonce = uuid.uuid4().hex
    record: dict[str, JSON] = {"format": FENCE_FORMAT, "attempt": owner, "records": listed, "nonce": nonce}
    store.put_new(f"{owners}/{owner}/{FENCE}", record_bytes(record))
