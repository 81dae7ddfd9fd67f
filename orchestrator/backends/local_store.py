"""A store in a folder of a POSIX disk. Objects appear completely or not at all, and are durable when a call returns.

A record is written in steps: temporary file, fsync, `link` to its name (which never replaces), fsync of the folder.

Rule: a store that had its identity file and has it no more is not mounted. Then nothing is written, as it would end up
in the folder below the mount, and nothing is called missing.
"""

import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from orchestrator.artifact import Chunks
from orchestrator.backends.group_sharing import share_file, share_folder
from orchestrator.backends.objects import (
    CHUNK_BYTES,
    IDENTITY,
    MAX_RECORD_BYTES,
    Digest,
    StoredObject,
    check_key,
    file_digest,
    open_file_digest,
)
from orchestrator.errors import StoreError, UnreachableStoreError

TEMPORARY = ".tmp"  # inside the store, so that linking a file to its name stays on one disk
LINK_TRIES = 5  # a concurrent deletion may remove the folder of a new object
CANNOT_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})
READ_ONLY = 0o444  # of committed files: a stage that links to them cannot change them in place by mistake


@dataclass(frozen=True)
class LocalStore:
    """Objects are files below `root`, which is made by the first write; folders exist only while they contain some."""

    root: Path
    seen: set[str] = field(default_factory=set, compare=False, repr=False)  # the identity file, once it was there

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(os.path.abspath(self.root)))

    @property
    def url(self) -> str:
        return str(self.root)

    @property
    def is_local(self) -> bool:
        return True

    def local(self, key: str) -> Path:
        return self.root / check_key(key) if key else self.root

    def _path(self, key: str) -> str:
        """`local` as text: the millions of small requests of a map spend much of their time on `Path`."""
        return f"{self.root}/{check_key(key)}"

    def check_mounted(self) -> None:
        """Called before anything is written to the folder, also by whoever writes there without this class.

        Raises: UnreachableStoreError: the store had its identity file, and has not now.
        """
        if os.path.exists(f"{self.root}/{IDENTITY}"):
            self.seen.add(IDENTITY)
        elif self.seen:
            raise UnreachableStoreError(
                f"{self.url}: '{IDENTITY}' was there and is not now. Is the folder still mounted? Nothing was written"
            )

    def make_folder(self, key: str, *, durable: bool = True) -> Path:
        """Make a folder and its parents, for files that are written without this class.

        Raises: OSError; UnreachableStoreError: as `check_mounted`.
        """
        self.check_mounted()
        folder = self.local(key)
        make_folders(folder, durable=durable)
        return folder

    def put_new(self, key: str, data: bytes) -> bool:
        def write(file: IO[bytes]) -> None:
            file.write(data)

        with self._explain_errors(key, "write"):
            return self._create(self._path(key), write)

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        with self._explain_errors(key, "read"):
            try:
                with open(path, "rb") as file:
                    data = file.read(MAX_RECORD_BYTES + 1)
                if key == IDENTITY:
                    self.seen.add(IDENTITY)
            except (FileNotFoundError, NotADirectoryError):
                self.check_mounted()
                return None
        if len(data) > MAX_RECORD_BYTES:
            raise StoreError(f"{path}: found more than {MAX_RECORD_BYTES:,} bytes, expected a record")
        return data

    def get_range(self, key: str, start: int, size: int) -> bytes | None:
        with self._explain_errors(key, "read"):
            try:
                with open(self._path(key), "rb", buffering=0) as file:
                    return os.pread(file.fileno(), size, start)
            except (FileNotFoundError, NotADirectoryError):
                self.check_mounted()
                return None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with self._explain_errors(prefix, "list"):
            yield from self._walk(str(self.local(prefix)), len(str(self.root)) + 1)

    def folders(self, prefix: str) -> tuple[str, ...]:
        with self._explain_errors(prefix, "list"):
            entries = self._entries(self._path(prefix) if prefix else str(self.root))
            folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        return tuple(name for name in folders if name != TEMPORARY)

    def delete(self, key: str) -> None:
        path = self.local(key)
        with self._explain_errors(key, "delete"):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            for folder in path.parents:  # remove the folders that are empty now
                if folder == self.root or not _remove_empty(folder):
                    return

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def upload(self, path: Path, key: str) -> Digest:
        with self._explain_errors(key, f"copy {path} to"), path.open("rb") as source:
            return self.write(key, lambda: iter(lambda: source.read(CHUNK_BYTES), b""), path.stat().st_size)

    def write(self, key: str, chunks: Chunks, size: int) -> Digest:
        hasher, written = hashlib.sha256(), 0

        def write(file: IO[bytes]) -> None:
            nonlocal written
            for chunk in chunks():
                hasher.update(chunk)
                written += file.write(chunk)
            os.fchmod(file.fileno(), READ_ONLY)

        with self._explain_errors(key, "write"):
            if not self._create(self.local(key), write):
                raise StoreError(f"{self.url}: '{key}' exists already; expected a key that nobody else uses")
        return Digest(bytes=written, sha256=hasher.hexdigest())

    def download(self, key: str, path: Path) -> Digest | None:
        with self._explain_errors(key, f"copy to {path} from"):
            try:
                source = self.local(key).open("rb")
            except (FileNotFoundError, NotADirectoryError):
                self.check_mounted()
                return None
            with source, path.open("wb") as target:
                return copy_hashed(source, target)

    def digest(self, key: str) -> Digest | None:
        path = self.local(key)
        with self._explain_errors(key, "read"):
            with suppress(FileNotFoundError):
                if path.is_file():
                    return file_digest(path)
            self.check_mounted()
            return None

    def link(self, source: str, target: str) -> None:
        with self._explain_errors(target, f"link '{source}' to"):
            self.check_mounted()
            path = self.local(source)
            if _is_linked(path, self.local(target)):
                return

            def write(file: IO[bytes]) -> None:
                with path.open("rb") as reader:
                    shutil.copyfileobj(reader, file, CHUNK_BYTES)
                os.fchmod(file.fileno(), READ_ONLY)

            if not self._create(self.local(target), write):
                raise FileExistsError(errno.EEXIST, "found an object at the new key", target)

    def _create(self, target: Path | str, write: Callable[[IO[bytes]], None]) -> bool:
        """Write a temporary file and link it to `target`; False if that name exists."""
        self.check_mounted()
        folder = f"{self.root}/{TEMPORARY}"
        temporary = f"{folder}/{uuid.uuid4().hex}"
        make_folders(folder)
        try:
            with open(temporary, "xb") as file:
                write(file)
                share_file(file.fileno(), folder)
                file.flush()
                os.fsync(file.fileno())
            created = link_new(temporary, target)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        sync_path(os.path.dirname(target))  # also if another writer won: its object must survive a power cut
        return created

    def _walk(self, folder: str, prefix: int) -> Iterator[StoredObject]:
        """The files below a folder, whose keys are their paths after the first `prefix` characters."""
        for entry in self._entries(folder):
            if entry.is_dir(follow_symlinks=False):
                if entry.name != TEMPORARY:
                    yield from self._walk(entry.path, prefix)
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # deleted during the listing
                    found = entry.stat(follow_symlinks=False)
                    key = entry.path[prefix:]
                    yield StoredObject(key=key, bytes=found.st_size, modified_s=found.st_mtime)

    def _entries(self, folder: Path | str) -> Sequence[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            self.check_mounted()
            return []

    @contextmanager
    def _explain_errors(self, key: str, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(explain_os_error(error, f"{self.url}: cannot {action} '{key}'")) from error


def explain_os_error(error: OSError, where: str) -> str:
    """The message for a failed file operation: where, what was found, what to do."""
    found = os.strerror(error.errno) if error.errno else str(error)
    advice = {
        errno.ENOSPC: "Free some space (`illume gc` lists what can be deleted) or choose another store",
        errno.EDQUOT: "Free some space or raise the quota",
        errno.EROFS: "Mount the disk writable or choose another store",
        errno.EACCES: "Give this user write permission or choose another store",
        errno.EPERM: "The file system must allow hard links and writing, or another user owns the file; choose another "
        "store",
        errno.ENOTSUP: "The file system must allow hard links; choose another store",
        errno.ENOTDIR: "A file exists where a folder is needed; move it away or choose another store",
        errno.EEXIST: "A file exists where a folder is needed; move it away or choose another store",
    }.get(error.errno or 0, "Check the disk")
    return f"{where}: {found}. {advice}; nothing that was committed is lost"


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where one cannot be made (another disk, too many links, a file of another user)."""
    if not _is_linked(source, target):
        with source.open("rb") as reader, target.open("xb") as writer:
            shutil.copyfileobj(reader, writer, CHUNK_BYTES)


def _is_linked(source: Path, target: Path) -> bool:
    """Make a hard link. False: this file system, or `fs.protected_hardlinks` for files of other users, allows none."""
    make_folders(os.path.dirname(target))
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        return False
    return True


def seal(path: Path) -> Digest:
    """Hash a finished file and make it read-only. It is durable only after a sync."""
    with open(path, "rb", buffering=0) as file:
        digest = open_file_digest(file)
        os.fchmod(file.fileno(), READ_ONLY)
    return digest


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to the disk."""
    sync_path(folder)


def sync_path(path: Path | str) -> None:
    """Sync a file's bytes or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path | str, *, durable: bool = True) -> None:
    """Make a folder and its parents; in a folder that a group shares, shared with it.

    `durable`: synced, so that they outlive a power cut.
    """
    if not os.path.isdir(folder):
        _make_folder(os.fspath(folder), durable=durable)


def _make_folder(folder: str, *, durable: bool) -> None:
    above = os.path.dirname(folder)
    try:
        os.mkdir(folder)
    except FileNotFoundError:
        _make_folder(above, durable=durable)
        return _make_folder(folder, durable=durable)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
    else:
        share_folder(folder)
    if durable:
        sync_path(above)


def copy_hashed(source: IO[bytes], target: IO[bytes]) -> Digest:
    hasher, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        hasher.update(chunk)
        size += len(chunk)
        target.write(chunk)
    return Digest(bytes=size, sha256=hasher.hexdigest())


def link_new(temporary: str, target: Path | str) -> bool:
    """Link a file to a new name; False if that exists. The name is durable once its folder is synced."""
    folder = os.path.dirname(target)
    for _ in range(LINK_TRIES):
        make_folders(folder)
        try:
            os.link(temporary, target)
        except FileNotFoundError:  # a concurrent deletion removed the folder
            continue
        except FileExistsError:  # over NFS also raised when our own first try succeeded and its reply was lost
            return os.path.samefile(temporary, target)
        return True
    raise FileNotFoundError(errno.ENOENT, "the folder is removed repeatedly by another process", folder)


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def is_regular(path: Path) -> bool:
    """True for a plain file; False for links, folders, special files and missing paths."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
