"""Deletes objects of a store; those that a bucket keeps for a time stay, are reported, and stop nothing."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.backends.objects import StoredObject
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.errors import RetainedError
from orchestrator.store.store import Store

log = logging.getLogger(__name__)

DELETED_AT_ONCE = 1000  # objects; stores take them in one request


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """What was deleted, and what could not be yet."""

    bytes: int
    retained: tuple[str, ...]  # keys that the bucket keeps: object lock, retention, legal hold


def delete_objects(store: Store, objects: Iterable[StoredObject]) -> Deleted:
    """Delete objects, as far as the bucket allows it by now.

    Raises: StoreError: the store failed in another way; some may be deleted.
    """

    doomed = list(objects)
    starts = range(0, len(doomed), DELETED_AT_ONCE)
    lots = [doomed[start : start + DELETED_AT_ONCE] for start in starts]
    threads = request_threads(is_local=store.is_local)
    retained = dict(pair for found in parallel_map(partial(_delete, store), lots, threads=threads) for pair in found)
    if retained:
        more = f" (and {len(retained) - 1} more)" if len(retained) > 1 else ""
        log.warning("%s%s", next(iter(retained.values())), more)
    freed = sum(item.bytes for item in doomed if item.key not in retained)
    return Deleted(bytes=freed, retained=tuple(retained))


def _delete(store: Store, lot: Sequence[StoredObject]) -> list[tuple[str, str]]:
    """(key, why it stays) of what the bucket retains; the others are deleted."""
    try:
        store.delete_many([item.key for item in lot])
    except RetainedError as error:
        if len(lot) == 1:
            return [(lot[0].key, str(error))]
        return [pair for item in lot for pair in _delete(store, [item])]
    return []
