"""The folder that one attempt writes into, and how its files get into the store with their digests.

In a local store the folder lies in the store already and is sealed in place; for a remote store it is a staging folder
whose files are uploaded when the attempt commits.
"""

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifact import FileEntry
from orchestrator.errors import StoreError
from orchestrator.store.layout import Site
from orchestrator.store.local_store import explain_os_error, is_regular, link_or_copy, make_folders, seal, sync_folder
from orchestrator.store.objects import Digest, check_key
from orchestrator.store.store import Store

PARALLEL_FILES = 4  # hashed or uploaded at a time
STAGING = "staging"
NOTES = "LINKS.jsonl"  # beside the data: which files are links, so that another process can commit them


@dataclass(frozen=True, kw_only=True)
class AttemptFolder:
    """Write files below `data`. Can be pickled: the process that commits need not be the one that wrote."""

    store: Store
    site: Site
    stage_kind: str
    fingerprint: str
    attempt_id: str
    data: Path  # empty local folder at first

    def link(self, source_key: str, name: str, entry: FileEntry) -> None:
        """Take a committed file of the store, described by `entry`, as `name`, without reading or sending its bytes.

        In a remote store `name` does not appear below `data`; the copy is made in the store at commit.

        Raises:
            StoreError: `name` is taken, or the source is gone.
        """
        target = self.data / check_key(name)
        if target.exists() or name in self._links():
            raise StoreError(f"{target}: exists already; expected each file of an artifact to be written once")
        source = self.store.local(source_key)
        note = {"name": name, "key": source_key, "bytes": entry.bytes, "sha256": entry.sha256, "rows": entry.rows}
        try:
            if source is not None:
                link_or_copy(source, target)
            with self._notes.open("a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")
        except OSError as error:
            raise StoreError(explain_os_error(error, f"{target}: cannot link '{source_key}'")) from error

    def publish(self, rows: Mapping[str, int] | None = None) -> tuple[FileEntry, ...]:
        """Step 1: make every file durable in the store and return its digest. May be repeated after a failure.

        Raises:
            StoreError: something else than a plain file was written, or the store failed.
        """
        files, links, rows = files_below(self.data), self._links(), rows or {}

        def one(name: str) -> FileEntry:
            if name in links and self._is_untouched(name, links[name]):
                return links[name][1]
            digest = self._store_file(name)
            return FileEntry(path=name, bytes=digest.bytes, sha256=digest.sha256, rows=rows.get(name))

        with ThreadPoolExecutor(PARALLEL_FILES) as threads:
            entries = list(threads.map(one, sorted({*files, *links})))
        if self.store.is_local:
            self._sync_folders()
        return tuple(entries)

    @property
    def has_links(self) -> bool:
        return bool(self._links())

    def remove(self) -> None:
        """Delete what was written on this machine. Only for attempts that cannot be committed any more."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.forget_links()
        if not self.store.is_local:
            with suppress(OSError):
                self.data.parent.rmdir()

    def forget_links(self) -> None:
        self._notes.unlink(missing_ok=True)

    @property
    def _notes(self) -> Path:
        return self.data.parent / NOTES

    def _links(self) -> dict[str, tuple[str, FileEntry]]:
        if not self._notes.exists():
            return {}
        links = {}
        for line in self._notes.read_text(encoding="utf-8").splitlines():
            note = json.loads(line)
            entry = FileEntry(path=note["name"], bytes=note["bytes"], sha256=note["sha256"], rows=note["rows"])
            links[note["name"]] = (note["key"], entry)
        return links

    def _is_untouched(self, name: str, link: tuple[str, FileEntry]) -> bool:
        """True if `name` still is the linked file; in a remote store the copy is made here."""
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


def new_folder(
    store: Store, cache: Path, *, site: Site, stage_kind: str, fingerprint: str, attempt: str
) -> AttemptFolder:
    """An empty folder for an attempt id that was never used.

    Raises:
        StoreError: the id was used before, or the folder cannot be made.
    """
    key = check_key(site.data_key(attempt))
    data = store.local(key) or cache / STAGING / key
    try:
        make_folders(data.parent)
        data.mkdir()
    except FileExistsError as error:
        raise StoreError(f"{data}: exists already; expected an attempt id that was never used") from error
    except OSError as error:
        raise StoreError(explain_os_error(error, f"{data}: cannot be made")) from error
    return AttemptFolder(
        store=store, site=site, stage_kind=stage_kind, fingerprint=fingerprint, attempt_id=attempt, data=data
    )


def files_below(folder: Path) -> list[str]:
    """Paths of all files, "/" separated, sorted.

    Raises:
        StoreError: a symbolic link, a pipe or a name that not every store can hold.
    """
    names = []
    for parent, folders, files in os.walk(folder):
        for name in [*files, *(entry for entry in folders if (Path(parent) / entry).is_symlink())]:
            path = Path(parent) / name
            if not is_regular(path):
                raise StoreError(f"{path}: found a link or a special file, expected only plain files in an artifact")
            relative = path.relative_to(folder).as_posix()
            if not relative.isprintable():
                raise StoreError(f"{str(path)!r}: found letters in the name that cannot be printed; rename the file")
            names.append(check_key(relative))
    return sorted(names)
