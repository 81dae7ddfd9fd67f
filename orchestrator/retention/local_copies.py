"""What this machine keeps beside the store, and which of it can go: copies, downloads, staged files, indexes.

Nothing of it is needed: what is missing is fetched or made again.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.attempt_folder import STAGING
from orchestrator.store.layout import owner_of
from orchestrator.store.store import Store
from orchestrator.store.verification import DOWNLOADS

INDEXES = "trace"  # made from data of the store by `illume trace`


@dataclass(frozen=True, kw_only=True)
class LocalCopy:
    path: Path
    key: str  # below the cache
    bytes: int
    newest_s: float  # when the newest of its files was written


def stale_copies(
    store: Store, cache: Path, *, now_s: float, is_live: Callable[[str], bool], older_than_s: float
) -> list[LocalCopy]:
    """Copies of files that the store no longer has; of this age, what dead attempts left and what was made from it.

    `is_live` says of a stage attempt's id whether its run may still be working.
    """
    found = []
    for key in _kept_below(cache):
        with suppress(FileNotFoundError):  # somebody moves it this moment
            copy = _copy_at(cache, key)
            top, _, rest = key.partition("/")
            if top in (DOWNLOADS, INDEXES):
                can_go = copy.newest_s < now_s - older_than_s
            elif top == STAGING:
                can_go = not is_live(owner_of(Path(rest).parent.name)) and copy.newest_s < now_s - older_than_s
            else:
                can_go = next(iter(store.list(key)), None) is None
            found += [copy] if can_go else []
    return found


def delete_copies(copies: list[LocalCopy]) -> None:
    for copy in copies:
        shutil.rmtree(copy.path, ignore_errors=True)


def _kept_below(cache: Path) -> Iterator[str]:
    """Folders of the cache that stay or go as a whole."""
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
