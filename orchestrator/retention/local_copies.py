"""Local files of this machine besides the store, and which can be deleted: copies, downloads, staged files, indexes.

None of them is needed: missing files are fetched or made again.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.copies.copy_budget import DOWNLOADS, INDEXES, STAGING, delete_copy
from orchestrator.store.layout import owner_of
from orchestrator.store.store import Store


@dataclass(frozen=True, kw_only=True)
class LocalCopy:
    """A folder of the cache that is deleted as a whole."""

    path: Path
    key: str  # path below the cache
    bytes: int
    newest_s: float  # modification time of its newest file


def stale_copies(
    store: Store, cache: Path, *, now_s: float, is_live: Callable[[str], bool], older_than_s: float
) -> list[LocalCopy]:
    """Copies of files that the store no longer has; and, if older, leftovers of dead attempts, downloads and indexes.

    `is_live`: stage attempt id -> whether its run may still be working.
    """
    found = []
    for key in _folder_keys(cache):
        with suppress(FileNotFoundError):  # another process is moving it
            copy = _copy_at(cache, key)
            top, _, rest = key.partition("/")
            if top in (DOWNLOADS, INDEXES):
                is_stale = copy.newest_s < now_s - older_than_s
            elif top == STAGING:
                is_stale = not is_live(owner_of(Path(rest).parent.name)) and copy.newest_s < now_s - older_than_s
            else:
                is_stale = next(iter(store.list(key)), None) is None
            found += [copy] if is_stale else []
    return found


def delete_copies(cache: Path, copies: list[LocalCopy]) -> list[LocalCopy]:
    """Delete copies, except those that a process of this machine reads. Returns those that are gone."""
    return [copy for copy in copies if delete_copy(cache, copy.key)]


def _folder_keys(cache: Path) -> Iterator[str]:
    """Keys of the cache's folders that are kept or deleted as a whole."""
    for folder, names, _ in os.walk(cache):
        here = Path(folder).relative_to(cache).as_posix()
        whole = list(names) if here in (DOWNLOADS, INDEXES) else [name for name in names if name == "data"]
        names[:] = sorted(set(names) - set(whole))
        yield from (f"{here}/{name}" for name in sorted(whole))


def _copy_at(cache: Path, key: str) -> LocalCopy:
    path = cache / key
    files = [file.stat() for file in path.rglob("*") if file.is_file()]
    newest_s = max(path.stat().st_mtime, *(file.st_mtime for file in files), 0.0)
    return LocalCopy(path=path, key=key, bytes=sum(file.st_size for file in files), newest_s=newest_s)
