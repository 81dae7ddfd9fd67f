"""Files of datasets that come to this machine when they are first read, from wherever the dataset is kept.

Readers ask `file_of` each time they open a file, as a file that was not read for long may have been deleted here. Files
that this machine has no room to keep come in parts, `read_span`: read in random order, each would be fetched as a whole
for each of its samples.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

FetchFile = Callable[[str], Path | None]  # where a file is on this machine, once it is there; None: there is none
OpenFile = Callable[[str], BinaryIO | None]  # a file of which a small part will be read; None: there is none
ReadPart = Callable[[str, int, int], bytes | None]  # bytes of a file from an offset on; None: there is none

AHEAD_THREADS = 4  # that fetch at the same time
AHEAD_BYTES = 256 * 2**20  # of parts that have arrived, or will, before they are read
REQUEST_BYTES = 2**20  # what a connection brings in the time that a request takes: 20 ms at 50 MB/s
NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class _PartReader:
    read: ReadPart
    sizes: Mapping[str, int]  # bytes of the files that are not kept


_fetches: dict[Path, FetchFile] = {}  # of this process, by folder
_opens: dict[Path, OpenFile] = {}
_arriving: dict[tuple[Path, str], Future[Path | None]] = {}
_reads: dict[Path, "_PartReader"] = {}
_spans: OrderedDict[tuple[Path, str, int, int], Future[bytes]] = OrderedDict()  # read ahead
_lock = threading.Lock()
_pool = ThreadPoolExecutor(AHEAD_THREADS, thread_name_prefix="read-ahead")


def fetch_from(
    folder: Path,
    fetch: FetchFile,
    open_file: OpenFile | None = None,
    *,
    read_part: ReadPart | None = None,
    not_kept: Mapping[str, int] = NOTHING,
) -> None:
    """From now on, this process fetches the files of `folder` that it does not find there.

    `open_file`: opens one without fetching all of it; by default it is fetched. `not_kept`: bytes of the files that
    would have to make room for others before they are read again; of these, `read_part` reads parts where that is less.
    """
    _fetches[folder] = fetch
    if read_part is not None:
        _reads[folder] = _PartReader(read=read_part, sizes=not_kept)
    if open_file is not None:
        _opens[folder] = open_file


def is_fetched(folder: Path) -> bool:
    return folder in _fetches


def file_of(folder: Path, name: str) -> Path:
    """Where a file of a folder is; there may be none. Waits until it has arrived. Raises: what its fetching raises."""
    path = folder / name
    fetch = _fetches.get(folder)
    if fetch is None or path.exists():
        return path
    with _lock:
        arriving = _arriving.get((folder, name))
    return (fetch(name) if arriving is None else arriving.result()) or path


def is_read_in_parts(folder: Path, name: str, num_bytes: int) -> bool:
    """Whether a read of so many bytes fetches just these: they and a request are less than the whole file."""
    reader = _reads.get(folder)
    is_less = reader is not None and num_bytes + REQUEST_BYTES < reader.sizes.get(name, 0)
    return is_less and not (folder / name).exists()


def read_span(folder: Path, name: str, offset: int, num_bytes: int) -> bytes:
    """Bytes of a file, fewer where it ends. Raises: FileNotFoundError: there is none; what its fetching raises."""
    if not is_read_in_parts(folder, name, num_bytes):
        with file_of(folder, name).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), num_bytes, offset)
    with _lock:
        arriving = _spans.pop((folder, name, offset, num_bytes), None)
    return _fetch_span(folder, name, offset, num_bytes) if arriving is None else arriving.result()


def read_span_ahead(folder: Path, name: str, offset: int, num_bytes: int) -> None:
    """Begin to fetch what will be read soon: the part, or the whole file if it is not read in parts."""
    if not is_read_in_parts(folder, name, num_bytes):
        read_ahead(folder, [name])
        return
    key = (folder, name, offset, num_bytes)
    with _lock:
        if key not in _spans:
            _spans[key] = _pool.submit(_fetch_span, *key)
        while sum(size for *_, size in _spans) > AHEAD_BYTES:  # what was never read, as it was at hand already
            _spans.popitem(last=False)[1].cancel()


def _fetch_span(folder: Path, name: str, offset: int, num_bytes: int) -> bytes:
    data = _reads[folder].read(name, offset, num_bytes)
    if data is None:
        raise FileNotFoundError(name)
    return data


def path_of(path: Path) -> Path:
    """Where a file is that is named by its path, also if that is in a folder whose files are fetched."""
    folder = None if path.exists() else next((folder for folder in path.parents if folder in _fetches), None)
    return path if folder is None else file_of(folder, path.relative_to(folder).as_posix())


def open_part(folder: Path, name: str) -> BinaryIO:
    """A file of a folder for reading a small part of it, such as the footer of a table.

    Raises: FileNotFoundError: there is none; what its fetching raises.
    """
    path = folder / name
    opens = None if path.exists() else _opens.get(folder)
    found = None if opens is None else opens(name)
    return file_of(folder, name).open("rb") if found is None else found


def read_ahead(folder: Path, names: Iterable[str]) -> None:
    """Begin to fetch files that will be read soon. Their errors are raised where they are read."""
    fetch = _fetches.get(folder)
    if fetch is None:
        return
    for name in names:
        if (folder / name).exists():
            continue
        with _lock:
            future = None if (folder, name) in _arriving else _pool.submit(fetch, name)
            if future is not None:
                _arriving[folder, name] = future
        if future is not None:  # called at once, by this thread, if it is done already
            future.add_done_callback(partial(_forget, (folder, name)))


def _forget(key: tuple[Path, str], _done: Future[Path | None]) -> None:
    with _lock:
        _arriving.pop(key, None)
