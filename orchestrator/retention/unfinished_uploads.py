"""Multipart uploads that nobody will finish: no key shows them, and their parts cost storage until they are aborted."""

import logging
from collections.abc import Callable

from orchestrator.backends.object_store import ObjectStore
from orchestrator.backends.s3_api import UnfinishedUpload
from orchestrator.errors import StoreError
from orchestrator.store.layout import owner_of
from orchestrator.store.store import Store

log = logging.getLogger(__name__)


def find_unfinished_uploads(store: Store, *, before_s: float, is_live: Callable[[str], bool]) -> list[UnfinishedUpload]:
    """The uploads below the store's address that began before `before_s` and whose attempt is not live.

    Only S3 can be asked; Azure and Google Cloud drop them by themselves after a week. A bucket that does not allow the
    listing is named in the log.
    """
    if not isinstance(store, ObjectStore) or store.s3 is None:
        return []
    try:
        found = list(store.s3.unfinished_uploads())
    except StoreError as error:
        log.warning("uploads that were never finished are not collected: %s", error)
        return []
    return [upload for upload in found if upload.begun_s <= before_s and not is_live(owner_of(_attempt_of(upload.key)))]


def abort_uploads(store: Store, uploads: list[UnfinishedUpload]) -> int:
    """Abort uploads; returns the bytes that this frees. Raises: StoreError: the store failed."""
    if not isinstance(store, ObjectStore) or store.s3 is None:
        return 0
    for upload in uploads:
        store.s3.abort_upload(upload)
    return sum(upload.bytes for upload in uploads)


def _attempt_of(key: str) -> str:
    """The attempt whose file is uploaded: the folder with the folder `data`; "" for other keys."""
    parts = key.split("/")
    return parts[parts.index("data") - 1] if "data" in parts[1:] else ""
