"""The files that an attempt has linked: a file of lines that grows, read once by each process that adds to it."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.constraints import Key, Sha256, Size
from orchestrator.documents.typed_json import parse_record


@dataclass(frozen=True, kw_only=True)
class Link:
    """A file of the store under a second name, as one line of the list."""

    name: Key
    key: Key
    bytes: Size
    sha256: Sha256
    rows: int | None


@dataclass
class LinkList:
    """The list at `path`. Each line is parsed once, so that adding n links takes n steps. Can be pickled."""

    path: Path
    _links: dict[str, Link] = field(default_factory=dict)  # by name, in the order in which they were added
    _read_bytes: int = 0

    def __reduce__(self) -> tuple[type["LinkList"], tuple[Path]]:
        return LinkList, (self.path,)

    def read(self) -> dict[str, Link]:
        """All links by name, those of other processes included. Raises: CorruptArtifactError."""
        try:
            size = os.stat(self.path).st_size
        except FileNotFoundError:
            size = 0
        if size < self._read_bytes:  # deleted by another process
            self._links, self._read_bytes = {}, 0
        if size > self._read_bytes:
            with self.path.open("rb") as file:
                file.seek(self._read_bytes)
                data = file.read()
            for line in data.splitlines():
                link = parse_record(Link, line, str(self.path))
                self._links[link.name] = link
            self._read_bytes += len(data)
        return self._links

    def add(self, link: Link) -> None:
        """Append a link. Call `read` before."""
        line = f"{json.dumps(vars(link))}\n".encode()
        with open(self.path, "ab", buffering=0) as file:
            file.write(line)
            if file.tell() == self._read_bytes + len(line):  # else another process adds too: read again
                self._links[link.name] = link
                self._read_bytes += len(line)

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self._links, self._read_bytes = {}, 0
