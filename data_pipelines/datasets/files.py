"""Files of datasets that come to this machine when they are first read, from wherever the dataset is kept.

Readers ask `file_of` each time they open a file, as a file that was not read for long may have been deleted here.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

FetchFile = Callable[[str], Path | None]  # where a file is on this machine, once it is there; None: there is none
OpenFile = Callable[[str], BinaryIO | None]  # a file of which a small part will be read; None: there is none

AHEAD_THREADS = 4  # that fetch at the same time

_fetches: dict[Path, FetchFile] = {}  # of this process, by folder
_opens: dict[Path, OpenFile] = {}
_arriving: dict[tuple[Path, str], Future[Path | None]] = {}
_lock = threading.Lock()
_pool = ThreadPoolExecutor(AHEAD_THREADS, thread_name_prefix="read-ahead")


def fetch_from(folder: Path, fetch: FetchFile, open_file: OpenFile | None = None) -> None:
    """From now on, this process fetches the files of `folder` that it does not find there.

    `open_file`: opens one without fetching all of it; by default it is fetched.
    """
    _fetches[folder] = fetch
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
