"""Makes many small files of a store durable together, as a disk takes as long for one as for a hundred.

On a local store the files of a group are written, synced by one request for the whole file system, and then linked to
their names. Where that request does not exist or would wait for much that others have written, each file is synced.
On a remote store the requests of a group run in parallel.
"""

import ctypes
import errno
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from orchestrator.backends.group_sharing import share_file
from orchestrator.backends.local_store import TEMPORARY, LocalStore, explain_os_error, link_new, make_folders, sync_path
from orchestrator.backends.mounts import is_local_disk
from orchestrator.backends.objects import check_key
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.errors import StoreError
from orchestrator.store.store import Store

AT_FDCWD, RENAME_NOREPLACE = -100, 1  # of Linux, <fcntl.h> and <linux/fs.h>
MIN_TOGETHER = 4  # paths that are synced faster together
MAX_DIRTY_BYTES = 256 * 1024**2  # that wait to be written on this machine: beyond it, others would be waited for
SYNC_THREADS = 16  # that sync paths one by one: the file system writes out together what is asked for together
MEMORY_INFO = Path("/proc/meminfo")

Paths = Callable[[], Sequence[Path | str]]
Records = Sequence[tuple[str, bytes]]  # keys and what is stored there
Create = Callable[[Sequence[int]], list[bool]]


def put_all(store: Store, records: Records, *, written: Paths = tuple) -> list[bool]:
    """`Store.put_new` for many: which of them this call created. They are durable when it returns.

    `written`: as for `prepared`.
    """
    with prepared(store, records, written=written) as create:
        return create(range(len(records)))


@contextmanager
def prepared(store: Store, records: Records, *, written: Paths = tuple) -> Iterator[Create]:
    """A function that creates records of a group, given by their numbers, and says which of them it created.

    They are durable when it returns. So records of which some must be durable before the others appear are created in
    that order, though the bytes of all are made durable at once.

    `written`: finds the files and folders of the caller in a local store that are made durable before any record
    appears. It is asked only if they are synced one by one.
    """
    if not isinstance(store, LocalStore):
        threads = request_threads(is_local=store.is_local)
        yield lambda numbers: list(
            parallel_map(lambda number: store.put_new(*records[number]), numbers, threads=min(len(numbers), threads))
        )
        return
    store.check_mounted()
    where = f"{store.url}: cannot write {len(records)} records"
    targets = [f"{store.root}/{check_key(key)}" for key, _ in records]
    folder, nonce = f"{store.root}/{TEMPORARY}", uuid.uuid4().hex
    temporaries = [f"{folder}/{nonce}-{number}" for number in range(len(records))]

    def create(numbers: Sequence[int]) -> list[bool]:
        with _explained(where):
            created = [_name(temporaries[number], targets[number]) for number in numbers]
            folders = list(dict.fromkeys(os.path.dirname(targets[number]) for number in numbers))
            sync_all(store.root, lambda: folders, at_least=len(folders))
            return created

    try:
        with _explained(where):
            make_folders(folder)
            for temporary, (_, data) in zip(temporaries, records, strict=True):
                _write(temporary, data)
            sync_all(store.root, lambda: [*written(), *temporaries], at_least=len(temporaries))
        yield create
    finally:
        for temporary in temporaries:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(explain_os_error(error, where)) from error


def _name(temporary: str, target: str) -> bool:
    """Give a file its name; False if that exists. One step where the system can rename without replacing."""
    rename = _rename_new()
    if rename is not None:
        code = rename(os.fsencode(temporary), os.fsencode(target))
        if code in (0, errno.EEXIST):
            return code == 0
    return link_new(temporary, target)  # also where the folder is missing, or the file system refuses


@lru_cache(maxsize=1)
def _rename_new() -> Callable[[bytes, bytes], int] | None:
    """Linux's rename that never replaces: its error number, 0 if the file has its new name. None elsewhere."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return None
    return lambda old, new: ctypes.get_errno() if function(AT_FDCWD, old, AT_FDCWD, new, RENAME_NOREPLACE) else 0


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        share_file(descriptor, os.path.dirname(path))
    finally:
        os.close(descriptor)


def sync_all(root: Path, paths: Paths, *, at_least: int) -> None:
    """Make files and folders below `root`, as they are now, durable.

    `paths` finds them; it is asked only if they are synced one by one. There are `at_least` so many. Raises: OSError.
    """
    if at_least >= MIN_TOGETHER and is_local_disk(root) and _dirty_bytes() <= MAX_DIRTY_BYTES:
        sync = _syncfs()
        if sync is not None:
            sync(root)
            return
    found = list(dict.fromkeys(paths()))
    for _ in parallel_map(sync_path, found, threads=min(len(found), SYNC_THREADS)):
        pass


@lru_cache(maxsize=1)
def _syncfs() -> Callable[[Path], None] | None:
    """Linux's request to sync the file system that a folder is on; None elsewhere."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)  # the C library of another system has none
    if function is None:
        return None

    def sync(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if function(descriptor) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(folder))
        finally:
            os.close(descriptor)

    return sync


def _dirty_bytes() -> int:
    """Bytes that wait to be written on this machine; more than any limit if that is unknown."""
    try:
        lines = MEMORY_INFO.read_text().splitlines()
    except OSError:
        return 1 << 62
    found = next((line.split() for line in lines if line.startswith("Dirty:")), None)
    return int(found[1]) * 1024 if found else 1 << 62
