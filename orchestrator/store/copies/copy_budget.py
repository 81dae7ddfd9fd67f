"""How much of this machine's disk local copies may take: the least recently used go first, never one that is read.

`ILLUME_CACHE_BYTES` sets the budget of a node ("500GB", "1TiB", plain bytes), `ILLUME_CACHE` the folder of its copies.
"""

import getpass
import hashlib
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import RecipeError
from orchestrator.store.copies.copy_locks import LOCK_FILE, deleting

log = logging.getLogger(__name__)

CACHE_VARIABLE = "ILLUME_CACHE"
BUDGET_VARIABLE = "ILLUME_CACHE_BYTES"
DEFAULT_SHARE = 0.5  # of the disk
LEFTOVER_AGE_S = 24 * 3600.0  # of files that are being written or downloaded, and that no process holds
CHECKS_PER_BUDGET = 32  # the cache is measured after so much of it is new; measuring reads every folder
DOWNLOADS, STAGING, INDEXES = "downloads", "staging", "trace"  # folders of a cache that hold no copies
NO_COPIES = frozenset({DOWNLOADS, STAGING, INDEXES})

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

_unmeasured: dict[Path, int] = {}  # of this process: bytes that were added since the cache was measured
_unmeasured_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One local copy."""

    data_key: str
    bytes: int
    used_s: float  # when it was last asked for, seconds since 1970


def budget_bytes(cache: Path, environment: Mapping[str, str] = os.environ) -> int:
    """How many bytes the copies below `cache` may take together. Raises: RecipeError: the variable is no size."""
    text = environment.get(BUDGET_VARIABLE, "").strip()
    if not text:
        return int(shutil.disk_usage(_existing(cache)).total * DEFAULT_SHARE)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.lower())
    if found is None or found[2] not in _UNITS:
        raise RecipeError(f"{BUDGET_VARIABLE}: found {text!r}, expected a size such as 500GB, 1TiB or 200000000000")
    return int(float(found[1]) * _UNITS[found[2]])


def cache_of_node(store_url: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder for local copies that all processes of this user on a node share, whatever made them."""
    name = hashlib.sha256(store_url.encode()).hexdigest()[:16]
    if environment.get(CACHE_VARIABLE):
        return Path(environment[CACHE_VARIABLE]).absolute() / name
    folder = Path(tempfile.gettempdir()) / f"illume-cache-{getpass.getuser()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.geteuid():  # somebody else's: /tmp is open to all
        return Path(tempfile.mkdtemp(prefix="illume-cache-")) / name
    return folder / name


def make_room(cache: Path, new_bytes: int, *, written_bytes: int = 0) -> None:
    """Delete the least recently used copies until `new_bytes` more fit the budget; as far as nobody reads them.

    `written_bytes`: what was just written to the cache in another way.
    """
    budget, added = budget_bytes(cache), new_bytes + written_bytes
    with _unmeasured_lock:
        is_due = cache not in _unmeasured or _unmeasured[cache] + added > budget // CHECKS_PER_BUDGET
        _unmeasured[cache] = 0 if is_due else _unmeasured[cache] + added
    if not is_due:
        return
    total = sum(bytes_below(entry) for entry in _entries(cache) if entry.name != LOCK_FILE)
    excess = total + new_bytes - budget
    if excess > 0:
        freed = evict(cache, excess)
        if freed < excess:
            log.warning(
                "%s: local copies take %d bytes more than the budget of %d bytes, and all of them are being read or "
                "written; %s sets another budget",
                cache,
                excess - freed,
                budget,
                BUDGET_VARIABLE,
            )


def evict(cache: Path, wanted_bytes: int) -> int:
    """Delete copies, least recently used first, until `wanted_bytes` are free. Returns the bytes that were freed."""
    freed = _delete_leftovers(cache)
    for copy in sorted(copies(cache), key=lambda copy: copy.used_s):
        if freed >= wanted_bytes:
            break
        if delete_copy(cache, copy.data_key):
            log.info("%s: deleted the local copy of %s, %d bytes", cache, copy.data_key, copy.bytes)
            freed += copy.bytes
    return freed


def _delete_leftovers(cache: Path) -> int:
    """Delete what attempts and downloads that were killed left here long ago. Returns the bytes that were freed."""
    keys = [f"{STAGING}/{key}" for key in data_keys(cache / STAGING)]
    keys += [f"{DOWNLOADS}/{entry.name}" for entry in _entries(cache / DOWNLOADS)]
    freed = 0
    for key in keys:
        size, newest_s = bytes_below(cache / key), _newest_s(cache / key)
        if newest_s < time.time() - LEFTOVER_AGE_S and delete_copy(cache, key):
            log.info("%s: deleted the leftover %s, %d bytes", cache, key, size)
            freed += size
    return freed


def delete_copy(cache: Path, data_key: str) -> bool:
    """Delete a copy, if there is one and nobody reads it."""
    with deleting(cache, data_key) as is_unused:
        if not is_unused:
            return False
        folder = cache / data_key
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents:  # remove the folders that are empty now
            if parent == cache:
                break
            try:
                parent.rmdir()
            except OSError:
                break
        return not folder.exists()


def copies(cache: Path) -> Iterator[Copy]:
    """The local copies below a cache."""
    for data_key in data_keys(cache):
        with suppress(FileNotFoundError):  # another process has just deleted it
            folder = cache / data_key
            yield Copy(data_key=data_key, bytes=bytes_below(folder), used_s=folder.stat().st_mtime)


def data_keys(cache: Path) -> Iterator[str]:
    """The keys of the local copies below a cache, sorted."""
    for folder, names, _ in os.walk(cache):
        here = Path(folder).relative_to(cache).as_posix()
        if here == ".":
            names[:] = [name for name in names if name not in NO_COPIES]
        if "data" in names:
            yield f"{here}/data"
        names[:] = sorted(set(names) - {"data"})


def _entries(cache: Path) -> list[Path]:
    return list(cache.iterdir()) if cache.is_dir() else []


def _newest_s(folder: Path) -> float:
    """The newest time stamp of a folder and all below it, seconds since 1970."""
    times = [0.0]
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            times.append(path.lstat().st_mtime)
    return max(times)


def bytes_below(folder: Path) -> int:
    """The bytes of all files below a folder; 0 if there is none."""
    total = 0
    for here, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(here, name)).st_size
    return total


def _existing(folder: Path) -> Path:
    return next(found for found in (folder, *folder.parents) if found.exists())
