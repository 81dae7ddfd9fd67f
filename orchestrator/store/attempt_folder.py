"""The folder that one attempt writes into, and publishing its files to the store with their digests.

In a local store the folder is already inside the store and its files are sealed in place; for a remote store it is a
staging folder whose files are uploaded when the attempt commits.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from orchestrator.artifact import ArtifactKey, FileEntry
from orchestrator.backends.group_sharing import share_folder, share_tree
from orchestrator.backends.local_store import (
    LocalStore,
    explain_os_error,
    link_or_copy,
    make_folders,
    seal,
    sync_path,
)
from orchestrator.backends.objects import Digest, check_key
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.errors import StoreError
from orchestrator.store.copies.copy_budget import STAGING
from orchestrator.store.copies.copy_locks import hold, let_go
from orchestrator.store.layout import Site
from orchestrator.store.link_list import Link, LinkList
from orchestrator.store.store import Store

PARENTS = 4  # folders above those of the attempts that may have been made for this one
PARALLEL_FILES = 4  # hashed or uploaded at a time
LINKS_FILE = "LINKS.jsonl"  # next to the data folder: lists the linked files, so that another process can commit them


@dataclass(frozen=True, kw_only=True)
class AttemptFolder:
    """Write files below `data`. Can be pickled: the process that commits need not be the one that wrote."""

    store: Store
    site: Site
    key: ArtifactKey  # of the artifact or shard that is made
    attempt_id: str
    data: Path  # local folder, empty at first
    _links: LinkList = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_links", LinkList(self.data.parent / LINKS_FILE))

    def link(self, source_key: str, name: str, entry: FileEntry) -> None:
        """Add a committed file of the store, described by `entry`, as `name`, without reading or sending its bytes.

        In a remote store `name` does not appear below `data`; the copy is made in the store at commit.

        Raises:
            StoreError: `name` exists already, or the source is gone.
        """
        target = self.data / check_key(name)
        if name in self._links.read() or os.path.lexists(target):
            raise StoreError(f"{target}: exists already; expected each file of an artifact to be written once")
        source = self.store.local(source_key)
        link = Link(name=name, key=source_key, bytes=entry.bytes, sha256=entry.sha256, rows=entry.rows)
        try:
            if source is not None:
                link_or_copy(source, target)
            self._links.add(link)
        except OSError as error:
            raise StoreError(explain_os_error(error, f"{target}: cannot link '{source_key}'")) from error

    def publish(self, rows: Mapping[str, int] | None = None) -> tuple[FileEntry, ...]:
        """Step 1 of a commit: make every file durable in the store and return its digest. May be repeated.

        Raises: as `seal`.
        """
        entries = self.seal(rows)
        if self.store.is_local:
            try:
                for path in self._files_and_folders():
                    sync_path(path)
            except OSError as error:
                raise StoreError(explain_os_error(error, f"{self.data}: cannot be made durable")) from error
        return entries

    def seal(self, rows: Mapping[str, int] | None = None) -> tuple[FileEntry, ...]:
        """`publish` without the sync of a local store: the caller makes `written` durable before it decides.

        Raises:
            StoreError: the folder contains something other than plain files, or the store failed.
        """
        files, rows = set(files_below(self.data)), rows or {}
        links = {name: link for name, link in self._links.read().items() if self._is_untouched(link, files)}

        def publish_file(name: str) -> FileEntry:
            digest = self._store_file(name)
            return FileEntry(path=name, bytes=digest.bytes, sha256=digest.sha256, rows=rows.get(name))

        def publish_link(link: Link) -> FileEntry:
            if not self.store.is_local:
                self.store.link(link.key, f"{self.site.data_key(self.attempt_id)}/{link.name}")
            return FileEntry(path=link.name, bytes=link.bytes, sha256=link.sha256, rows=link.rows)

        if self.store.is_local and any("/" in name for name in files):
            share_tree(self.data)
        own = sorted(files - links.keys())
        made = parallel_map(publish_file, own, threads=PARALLEL_FILES if len(own) > 1 else 1)
        linked = parallel_map(publish_link, links.values(), threads=request_threads(is_local=self.store.is_local))
        return tuple(sorted(chain(made, linked), key=lambda entry: entry.path))

    def written(self) -> list[Path]:
        """The files and folders in a local store that have to be durable before the attempt commits.

        Includes the folders above, which `new_folder` has made without a sync if it was told so.
        """
        top = self.store.local(self.site.attempts)
        return [] if top is None else [*self._files_and_folders(), top, *list(top.parents)[:PARENTS]]

    def _files_and_folders(self) -> list[Path]:
        links, found = self._links.read(), list[Path]()
        for folder, _, names in os.walk(self.data, topdown=False):
            prefix = "" if folder == str(self.data) else f"{folder[len(str(self.data)) + 1 :]}/"
            found += [Path(folder, name) for name in names if f"{prefix}{name}" not in links]
            found.append(Path(folder))
        return [*found, self.data.parent]

    @property
    def has_links(self) -> bool:
        return bool(self._links.read())

    def remove(self) -> None:
        """Delete the local files. Only for attempts that can no longer be committed or whose files are uploaded."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.forget_links()
        if not self.store.is_local:
            data_key = self.site.data_key(self.attempt_id)
            let_go(_cache_of(self.data, data_key), f"{STAGING}/{data_key}", STAGING)
            with suppress(OSError):
                self.data.parent.rmdir()

    def forget_links(self) -> None:
        self._links.delete()

    def _is_untouched(self, link: Link, files: set[str]) -> bool:
        """Whether the file of that name is still the linked one."""
        source = self.store.local(link.key)
        if source is None:
            return link.name not in files
        try:
            return os.path.samefile(self.data / link.name, source)
        except FileNotFoundError:
            return False

    def _store_file(self, name: str) -> Digest:
        path = self.data / name
        if not self.store.is_local:
            return self.store.upload(path, f"{self.site.data_key(self.attempt_id)}/{name}")
        try:
            return seal(path)
        except OSError as error:
            raise StoreError(explain_os_error(error, f"{path}: cannot be made durable")) from error


def _cache_of(data: Path, data_key: str) -> Path:
    """The cache that a staging folder is in."""
    return data.parents[len(Path(data_key).parts)]


def new_folder(
    store: Store, cache: Path, *, site: Site, key: ArtifactKey, attempt: str, durable: bool = True
) -> AttemptFolder:
    """An empty folder for an attempt with a fresh id. Not `durable`: whoever commits syncs `AttemptFolder.written`.

    Raises:
        StoreError: the id was used before, or the folder cannot be made.
    """
    data_key = check_key(site.data_key(attempt))
    data = store.local(data_key) or cache / STAGING / data_key
    try:
        if not store.is_local:
            hold(cache, f"{STAGING}/{data_key}", STAGING)  # what no process holds is a leftover, in time
        if isinstance(store, LocalStore):
            store.check_mounted()
        make_folders(os.path.dirname(data), durable=durable)
        os.mkdir(data)
        share_folder(data)
    except FileExistsError as error:
        raise StoreError(f"{data}: exists already; expected an attempt id that was never used") from error
    except OSError as error:
        raise StoreError(explain_os_error(error, f"{data}: cannot be made")) from error
    return AttemptFolder(store=store, site=site, key=key, attempt_id=attempt, data=data)


def files_below(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, "/" separated, sorted.

    Raises:
        StoreError: found a symbolic link, a special file, or a name that not every store accepts.
    """
    return sorted(_files_below(str(folder), ""))


def _files_below(folder: str, prefix: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        name = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path, f"{name}/")
            continue
        if not entry.is_file(follow_symlinks=False):
            raise StoreError(f"{entry.path}: found a link or a special file, expected only plain files in an artifact")
        if not name.isprintable():
            raise StoreError(f"{entry.path!r}: found unprintable characters in the name; rename the file")
        yield check_key(name)
