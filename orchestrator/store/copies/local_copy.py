"""Provides a verified local folder to read committed files from: in a local store its own, else a copy on this node.

    <cache>/<data key>/...      a copy. Each file appears complete and verified; it is never changed or moved again
    <cache>/downloads/<id>/...  files that are arriving; whoever comes next goes on where the last one was stopped

A node downloads each file once, however many processes ask for it. A copy that is read is not deleted.
"""

import errno
import hashlib
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.artifact import FileEntry
from orchestrator.backends.local_store import explain_os_error
from orchestrator.errors import StoreError
from orchestrator.store.copies.copy_budget import (
    BUDGET_VARIABLE,
    CACHE_VARIABLE,
    DOWNLOADS,
    bytes_below,
    evict,
    make_room,
)
from orchestrator.store.copies.copy_locks import hold, making
from orchestrator.store.copies.verification import PARALLEL_FILES, Difference, compare, differences, raise_for
from orchestrator.store.store import Store

log = logging.getLogger(__name__)

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def readable_folder(
    store: Store, cache: Path, data_key: str, files: Sequence[FileEntry], holder: str = "", *, copy_key: str = ""
) -> Path:
    """A local folder with `files`: the folder in a local store, or a copy that is downloaded once and verified.

    `copy_key`: of the copy, if it is not the one of the whole folder. The copy stays until
    `copy_locks.release(cache, holder)`, at least until this process ends.

    Raises:
        CorruptArtifactError: a file is missing or damaged in the store; the message names the file.
        StoreError: the store failed, or the disk of this node is full.
    """
    folder = store.local(data_key)
    if folder is not None:
        raise_for(differences(store, data_key, files, rehash=False), f"{store.url}: {data_key}")
        return folder
    key = copy_key or data_key
    target = cache / key
    try:
        hold(cache, key, holder)
        if _missing(target, files):
            with making(cache, key) as is_alone:
                arriving = cache / DOWNLOADS / (_download_id(key) if is_alone else uuid.uuid4().hex)
                _download_missing(store, cache, data_key, files, arriving, target)
        target.mkdir(parents=True, exist_ok=True)  # of no files: all are fetched when they are read
        os.utime(target)  # the time of its last use
    except OSError as error:
        raise StoreError(explain_os_error(error, f"{target}: cannot keep the downloaded files")) from error
    return target


def adopt_folder(cache: Path, data_key: str, fresh: Path) -> None:
    """Make files that were written here, and are in the store by now, the local copy. Files already there stay."""
    target = cache / data_key
    with making(cache, data_key):
        make_room(cache, 0, written_bytes=bytes_below(fresh))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            os.rename(fresh, target)
            os.utime(target)
    shutil.rmtree(fresh, ignore_errors=True)


def _missing(folder: Path, files: Sequence[FileEntry]) -> list[FileEntry]:
    """The files that are not in the folder with their length."""

    def has(file: FileEntry) -> bool:
        path = folder / file.path
        return path.is_file() and path.stat().st_size == file.bytes

    return [file for file in files if not has(file)] if folder.is_dir() else list(files)


def _download_missing(
    store: Store, cache: Path, data_key: str, files: Sequence[FileEntry], arriving: Path, target: Path
) -> None:
    """Download what is missing; make room as long as the disk is full and something can be deleted."""
    while True:
        missing = _missing(target, files)
        needed = sum(file.bytes for file in missing)
        make_room(cache, needed)
        try:
            target.mkdir(parents=True, exist_ok=True)
            _download(store, data_key, missing, arriving, target)
        except (OSError, StoreError) as error:
            if not _is_disk_full(error):
                raise
            freed = evict(cache, needed)
            if not freed:
                raise _disk_full_error(target, needed) from error
            log.warning("%s: the disk is full; %d bytes of older copies were deleted, going on", target, freed)
        else:
            shutil.rmtree(arriving, ignore_errors=True)
            return


def _download(store: Store, data_key: str, files: Sequence[FileEntry], arriving: Path, target: Path) -> None:
    def download(file: FileEntry) -> Difference | None:
        part, path = arriving / file.path, target / file.path
        part.parent.mkdir(parents=True, exist_ok=True)
        is_begun = part.exists()
        difference = compare(file, store.download(f"{data_key}/{file.path}", part))
        if difference and is_begun:  # what an earlier download has left is not its beginning
            part.unlink(missing_ok=True)
            difference = compare(file, store.download(f"{data_key}/{file.path}", part))
        if difference:
            part.unlink(missing_ok=True)
            return difference
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, path)
        return None

    with ThreadPoolExecutor(PARALLEL_FILES) as threads:
        found = [difference for difference in threads.map(download, files) if difference]
    if found:
        _remove_if_empty(arriving, target)
    raise_for(found, f"{store.url}: {data_key}")


def _remove_if_empty(*folders: Path) -> None:
    for folder in folders:
        if not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)


def _download_id(data_key: str) -> str:
    return hashlib.sha256(data_key.encode()).hexdigest()[:32]


def _is_disk_full(error: BaseException) -> bool:
    causes = (error, error.__cause__)
    return any(isinstance(cause, OSError) and cause.errno in DISK_FULL for cause in causes)


def _disk_full_error(target: Path, needed: int) -> StoreError:
    free = shutil.disk_usage(target if target.exists() else target.parent).free
    return StoreError(
        f"{target}: the disk of node {socket.gethostname()} is full: found {free:,} bytes free, expected {needed:,}, "
        f"and every local copy is being read. Free some space, or set {CACHE_VARIABLE} to a folder on a larger disk "
        f"({BUDGET_VARIABLE} limits what copies take); nothing that was committed is lost"
    )
