"""The files of a committed folder on the node that reads them: of a remote store, each is fetched once a node.

Each file is a local copy of its own, so that the budget of copies bounds them: a process keeps the files that it read
last from being deleted, and fetches again what was deleted meanwhile.
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.artifact import FileEntry
from orchestrator.errors import CorruptArtifactError
from orchestrator.store.copies.copy_locks import let_go
from orchestrator.store.copies.local_copy import readable_folder
from orchestrator.store.store import Store

BUFFER_BYTES = 64 * 1024  # of a file of which some is read: the footer of most tables
MAX_HELD = 64  # files of a process: more than are read by its threads at one time

_held: OrderedDict[tuple[Path, str, str], None] = OrderedDict()  # of this process: (cache, key of the copy, holder)
_held_lock = threading.Lock()


@dataclass(frozen=True)
class NodeFiles:
    """The files of a committed folder that are fetched when they are first read. Can be pickled."""

    store: Store
    cache: Path
    data_key: str
    files: Mapping[str, FileEntry] = field(repr=False)  # by path
    holder: str = ""

    @property
    def place(self) -> Path:
        """The folder in a local store; else the name of the folder on every node, where these files are not."""
        return self.store.local(self.data_key) or self.cache / self.data_key

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file that has to be fetched; {}: the store is on this machine."""
        return {} if self.store.is_local else {name: file.bytes for name, file in self.files.items()}

    def fetch(self, name: str) -> Path | None:
        """The file on this node, complete and verified; None: the folder has no such file.

        Raises: CorruptArtifactError: it is missing or damaged in the store; StoreError: see `readable_folder`.
        """
        entry = self.files.get(name)
        if entry is None:
            return None
        copy_key = f"{self.data_key.removesuffix('/data')}/files/{name}/data"
        folder = readable_folder(self.store, self.cache, self.data_key, [entry], self.holder, copy_key=copy_key)
        self._hold(copy_key)
        return folder / name

    def open(self, name: str) -> BinaryIO | None:
        """The file for reading a small part of it, unverified; of a remote store, nothing else is fetched or kept.

        None: the folder has no such file. Reading raises: as `fetch`.
        """
        entry = self.files.get(name)
        return None if entry is None else io.BufferedReader(self._open_raw(name, entry), BUFFER_BYTES)

    def read(self, name: str, offset: int, num_bytes: int) -> bytes | None:
        """Bytes of a file, fewer where it ends, unverified; of a remote store, in one request, and nothing is kept.

        None: the folder has no such file. Raises: as `fetch`.
        """
        entry = self.files.get(name)
        if entry is None:
            return None
        with self._open_raw(name, entry) as file:
            file.seek(offset)
            return file.read(num_bytes)

    def _open_raw(self, name: str, entry: FileEntry) -> io.RawIOBase:
        here = self.store.local(f"{self.data_key}/{name}")
        if here is not None:
            return here.open("rb", buffering=0)
        return _RemoteFile(self.store, f"{self.data_key}/{name}", entry.bytes)

    def _hold(self, copy_key: str) -> None:
        """Let go of what this process has not read for long."""
        with _held_lock:
            _held[self.cache, copy_key, self.holder] = None
            _held.move_to_end((self.cache, copy_key, self.holder))
            while len(_held) > MAX_HELD:
                (cache, key, holder), _ = _held.popitem(last=False)
                let_go(cache, key, holder)


class _RemoteFile(io.RawIOBase):
    """An object of a store as a file in which one can seek; each read is a request."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readall(self) -> bytes:
        return self._get(self._size - self._at)

    def readinto(self, buffer: Any) -> int:
        data = self._get(min(len(buffer), self._size - self._at))
        buffer[: len(data)] = data
        return len(data)

    def _get(self, size: int) -> bytes:
        if size <= 0:
            return b""
        data = self._store.get_range(self._key, self._at, size)
        if data is None or len(data) != size:
            found = "nothing" if data is None else f"{self._at + len(data):,} bytes or fewer"
            raise CorruptArtifactError(
                f"{self._store.url}: {self._key}: found {found}, expected {self._size:,} bytes; run `illume verify`"
            )
        self._at += size
        return data
