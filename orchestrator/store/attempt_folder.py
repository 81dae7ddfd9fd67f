"""The folder that one attempt writes into, and publishing its files to the store with their digests.

In a local store the folder is already inside the store and its files are sealed in place; for a remote store it is a
staging folder whose files are uploaded when the attempt commits.
"""

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifact import ArtifactKey, FileEntry
from orchestrator.constraints import Key, Sha256, Size
from orchestrator.documents.typed_json import parse_record
from orchestrator.errors import StoreError
from orchestrator.store.layout import Site
from orchestrator.store.local_store import explain_os_error, is_regular, link_or_copy, make_folders, seal, sync_folder
from orchestrator.store.objects import Digest, check_key
from orchestrator.store.store import Store

PARALLEL_FILES = 4  # hashed or uploaded at a time
STAGING = "staging"
LINKS_FILE = "LINKS.jsonl"  # next to the data folder: lists the linked files, so that another process can commit them


@dataclass(frozen=True, kw_only=True)
class _Link:
    """One line of `LINKS_FILE`."""

    name: Key
    key: Key
    bytes: Size
    sha256: Sha256
    rows: int | None


@dataclass(frozen=True, kw_only=True)
class AttemptFolder:
    """Write files below `data`. Can be pickled: the process that commits need not be the one that wrote."""

    store: Store
    site: Site
    key: ArtifactKey  # of the artifact or shard that is made
    attempt_id: str
    data: Path  # local folder, empty at first

    def link(self, source_key: str, name: str, entry: FileEntry) -> None:
        """Add a committed file of the store, described by `entry`, as `name`, without reading or sending its bytes.

        In a remote store `name` does not appear below `data`; the copy is made in the store at commit.

        Raises:
            StoreError: `name` exists already, or the source is gone.
        """
        target = self.data / check_key(name)
        if target.exists() or name in self._links():
            raise StoreError(f"{target}: exists already; expected each file of an artifact to be written once")
        source = self.store.local(source_key)
        link = {"name": name, "key": source_key, "bytes": entry.bytes, "sha256": entry.sha256, "rows": entry.rows}
        try:
            if source is not None:
                link_or_copy(source, target)
            with self._links_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(link) + "\n")
        except OSError as error:
            raise StoreError(explain_os_error(error, f"{target}: cannot link '{source_key}'")) from error

    def publish(self, rows: Mapping[str, int] | None = None) -> tuple[FileEntry, ...]:
        """Step 1 of a commit: make every file durable in the store and return its digest. May be repeated.

        Raises:
            StoreError: the folder contains something other than plain files, or the store failed.
        """
        files, links, rows = files_below(self.data), self._links(), rows or {}

        def publish_file(name: str) -> FileEntry:
            if name in links and self._is_untouched(name, links[name]):
                return links[name][1]
            digest = self._store_file(name)
            return FileEntry(path=name, bytes=digest.bytes, sha256=digest.sha256, rows=rows.get(name))

        with ThreadPoolExecutor(PARALLEL_FILES) as threads:
            entries = list(threads.map(publish_file, sorted({*files, *links})))
        if self.store.is_local:
            self._sync_folders()
        return tuple(entries)

    @property
    def has_links(self) -> bool:
        return bool(self._links())

    def remove(self) -> None:
        """Delete the local files. Only for attempts that can no longer be committed or whose files are uploaded."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.forget_links()
        if not self.store.is_local:
            with suppress(OSError):
                self.data.parent.rmdir()

    def forget_links(self) -> None:
        self._links_file.unlink(missing_ok=True)

    @property
    def _links_file(self) -> Path:
        return self.data.parent / LINKS_FILE

    def _links(self) -> dict[str, tuple[str, FileEntry]]:
        if not self._links_file.exists():
            return {}
        links = {}
        for line in self._links_file.read_bytes().splitlines():
            link = parse_record(_Link, line, str(self._links_file))
            links[link.name] = (
                link.key,
                FileEntry(path=link.name, bytes=link.bytes, sha256=link.sha256, rows=link.rows),
            )
        return links

    def _is_untouched(self, name: str, link: tuple[str, FileEntry]) -> bool:
        """True if `name` is still the linked file. In a remote store this makes the copy."""
        path, source = self.data / name, self.store.local(link[0])
        if source is not None:
            return path.exists() and os.path.samefile(path, source)
        if path.exists():
            return False
        self.store.link(link[0], f"{self.site.data_key(self.attempt_id)}/{name}")
        return True

    def _store_file(self, name: str) -> Digest:
        path = self.data / name
        if not self.store.is_local:
            return self.store.upload(path, f"{self.site.data_key(self.attempt_id)}/{name}")
        try:
            return seal(path)
        except OSError as error:
            raise StoreError(explain_os_error(error, f"{path}: cannot be made durable")) from error

    def _sync_folders(self) -> None:
        try:
            for folder, _, _ in os.walk(self.data, topdown=False):
                sync_folder(Path(folder))
            sync_folder(self.data.parent)
        except OSError as error:
            raise StoreError(explain_os_error(error, f"{self.data}: cannot be made durable")) from error


def new_folder(store: Store, cache: Path, *, site: Site, key: ArtifactKey, attempt: str) -> AttemptFolder:
    """An empty folder for an attempt with a fresh id.

    Raises:
        StoreError: the id was used before, or the folder cannot be made.
    """
    data_key = check_key(site.data_key(attempt))
    data = store.local(data_key) or cache / STAGING / data_key
    try:
        make_folders(data.parent)
        data.mkdir()
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
    names = []
    for parent, folders, files in os.walk(folder):
        for name in [*files, *(entry for entry in folders if (Path(parent) / entry).is_symlink())]:
            path = Path(parent) / name
            if not is_regular(path):
                raise StoreError(f"{path}: found a link or a special file, expected only plain files in an artifact")
            relative = path.relative_to(folder).as_posix()
            if not relative.isprintable():
                raise StoreError(f"{str(path)!r}: found unprintable characters in the name; rename the file")
            names.append(check_key(relative))
    return sorted(names)
