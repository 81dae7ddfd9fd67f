"""Verifies committed files against their digests, and provides a verified local folder to read them from."""

import logging
import os
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifact import FileEntry
from orchestrator.errors import CorruptArtifactError, StoreError
from orchestrator.store.local_store import explain_os_error
from orchestrator.store.objects import Digest
from orchestrator.store.store import Store

log = logging.getLogger(__name__)

PARALLEL_FILES = 4
DOWNLOADS = "downloads"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Damage of an artifact or shard: which file, what was found, what was expected."""

    stage_kind: str
    fingerprint: str
    path: str  # of the damaged file; empty: the records are damaged
    found: str
    expected: str

    def __str__(self) -> str:
        what = f"file '{self.path}'" if self.path else "records"
        return f"{self.stage_kind} {self.fingerprint}: {what}: found {self.found}, expected {self.expected}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A file that differs from its entry."""

    path: str
    found: str
    expected: str


def differences(store: Store, data_key: str, files: Sequence[FileEntry], *, rehash: bool) -> list[Difference]:
    """Files that are missing or have another length; with `rehash` (reads every byte) also another digest."""
    sizes = {item.key: item.bytes for item in store.list(data_key)}

    def compare_file(file: FileEntry) -> Difference | None:
        key = f"{data_key}/{file.path}"
        size = sizes.get(key)
        if size is None and (unlisted := store.digest(key)):  # a listing may lag, as on NFS; the object decides
            size = unlisted.bytes
        if size is None or size != file.bytes:
            found = "no file" if size is None else f"{size:,} bytes"
            return Difference(path=file.path, found=found, expected=f"{file.bytes:,} bytes")
        return compare(file, store.digest(key)) if rehash else None

    with ThreadPoolExecutor(PARALLEL_FILES if rehash else 1) as threads:
        return [difference for difference in threads.map(compare_file, files) if difference]


def compare(file: FileEntry, digest: Digest | None) -> Difference | None:
    if digest is None:
        return Difference(path=file.path, found="no file", expected=f"{file.bytes:,} bytes")
    if digest.bytes != file.bytes:
        return Difference(path=file.path, found=f"{digest.bytes:,} bytes", expected=f"{file.bytes:,} bytes")
    if digest.sha256 != file.sha256:
        return Difference(path=file.path, found=f"SHA-256 {digest.sha256}", expected=f"SHA-256 {file.sha256}")
    return None


def readable_folder(store: Store, cache: Path, data_key: str, files: Sequence[FileEntry]) -> Path:
    """A local folder with `files`: the folder in a local store, or a copy that is downloaded once and verified.

    Raises:
        CorruptArtifactError: a file is missing or damaged in the store; the message names the file.
    """
    folder = store.local(data_key)
    if folder is not None:
        _raise_for(differences(store, data_key, files, rehash=False), f"{store.url}: {data_key}")
        return folder
    target = cache / data_key
    if not _is_complete(target, files):
        _download(store, cache, data_key, files)
    return target


def _is_complete(folder: Path, files: Sequence[FileEntry]) -> bool:
    def has(file: FileEntry) -> bool:
        path = folder / file.path
        return path.is_file() and path.stat().st_size == file.bytes

    return folder.is_dir() and all(has(file) for file in files)


def _download(store: Store, cache: Path, data_key: str, files: Sequence[FileEntry]) -> None:
    """Download into a fresh folder, then move it to its final path as a whole."""
    fresh, target = cache / DOWNLOADS / uuid.uuid4().hex, cache / data_key
    try:
        fresh.mkdir(parents=True)

        def download(file: FileEntry) -> Difference | None:
            path = fresh / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            return compare(file, store.download(f"{data_key}/{file.path}", path))

        with ThreadPoolExecutor(PARALLEL_FILES) as threads:
            _raise_for([found for found in threads.map(download, files) if found], f"{store.url}: {data_key}")
        move_to_cache(fresh, target, cache)
        if not _is_complete(target, files):
            raise StoreError(f"{target}: changed by another program; expected a folder that only this system writes")
    except OSError as error:
        raise StoreError(explain_os_error(error, f"{target}: cannot keep the downloaded files")) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def move_to_cache(fresh: Path, target: Path, cache: Path) -> None:
    """Move a complete folder to `target` in the cache; an existing folder is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(fresh, target)
    except OSError:
        if not target.exists():
            raise
        old = cache / DOWNLOADS / uuid.uuid4().hex
        old.parent.mkdir(parents=True, exist_ok=True)
        os.rename(target, old)
        shutil.rmtree(old, ignore_errors=True)
        os.rename(fresh, target)


def _raise_for(found: Sequence[Difference], where: str) -> None:
    if found:
        first = found[0]
        more = f" (and {len(found) - 1} more files)" if len(found) > 1 else ""
        raise CorruptArtifactError(
            f"{where}: file '{first.path}': found {first.found}, expected {first.expected}{more}. "
            "Run `illume verify --heal`, then the recipe again"
        )
