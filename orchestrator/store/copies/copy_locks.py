"""Locks on the local copies of a cache: who downloads one, who reads one, who may delete one.

All are byte ranges of one file, so a process holds any number of them with one descriptor per holder. They are the
kernel's: a process that is killed holds none. On a file system without locks nothing is shared and nothing is deleted.
"""

import errno
import fcntl
import hashlib
import logging
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

LOCK_FILE = "LOCKS"
_FLOCK = "hhqqi4x"  # `struct flock` of 64-bit Linux: type, whence, start, length, pid
_BUSY = frozenset({errno.EAGAIN, errno.EACCES})
_USED, _MADE = 0, 1  # the two ranges of a copy

_holders: dict[tuple[Path, str], int] = {}  # of this process: (cache, holder) -> descriptor
_holders_lock = threading.Lock()


def hold(cache: Path, data_key: str, holder: str = "") -> None:
    """Keep a copy from being deleted until `release(cache, holder)`, or until this process ends.

    Waits while another process deletes it. The copy need not exist yet.
    """
    with _holders_lock:
        descriptor = _holders.get((cache, holder))
        if descriptor is None:
            descriptor = _holders[cache, holder] = _open(cache)
    _lock(descriptor, fcntl.F_RDLCK, data_key, _USED, wait=True)


def release(cache: Path, holder: str) -> None:
    """Let go of all copies that `holder` has held in this process."""
    with _holders_lock:
        descriptor = _holders.pop((cache, holder), None)
    if descriptor is not None:
        os.close(descriptor)


def let_go(cache: Path, data_key: str, holder: str = "") -> None:
    """Let go of one copy."""
    with _holders_lock:
        descriptor = _holders.get((cache, holder))
    if descriptor is not None:
        _lock(descriptor, fcntl.F_UNLCK, data_key, _USED, wait=False)


@contextmanager
def making(cache: Path, data_key: str) -> Iterator[bool]:
    """Be the only process of this node that downloads a copy; others wait. False: the file system has no locks."""
    descriptor = _open(cache)
    try:
        is_alone = _lock(descriptor, fcntl.F_WRLCK, data_key, _MADE, wait=False)
        if is_alone is False:
            log.info("%s: another process is downloading it; waiting", data_key)
            is_alone = _lock(descriptor, fcntl.F_WRLCK, data_key, _MADE, wait=True)
        yield bool(is_alone)
    finally:
        os.close(descriptor)


@contextmanager
def deleting(cache: Path, data_key: str) -> Iterator[bool]:
    """True if nobody reads the copy: then nobody begins to until the end of the context. Does not wait."""
    descriptor = _open(cache)
    try:
        yield bool(_lock(descriptor, fcntl.F_WRLCK, data_key, _USED, wait=False))
    finally:
        os.close(descriptor)


def _open(cache: Path) -> int:
    cache.mkdir(parents=True, exist_ok=True)
    return os.open(cache / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int, kind: int, data_key: str, which: int, *, wait: bool) -> bool | None:
    """True: done. False: another process holds it. None: the file system has no locks."""
    number = int.from_bytes(hashlib.sha256(data_key.encode()).digest()[:7], "big")
    request = struct.pack(_FLOCK, kind, os.SEEK_SET, 2 * number + which, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        log.debug("no locks here: %s", error)
        return None
    return True
