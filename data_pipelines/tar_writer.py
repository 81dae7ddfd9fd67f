"""Writes plain tars whose bytes depend on the members alone: no times, owners or modes of this machine."""

import tarfile
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Place:
    header: int  # offset of the member's header
    data: int  # offset of its bytes
    end: int  # offset behind its padding


class TarWriter:
    """Adds members to a file opened for writing; `close` writes the end marks but leaves the file open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offset = 0

    def add(self, name: str, data: bytes) -> Place:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        header = info.tobuf(tarfile.GNU_FORMAT)
        padding = bytes(-len(data) % BLOCK)
        for part in (header, data, padding):
            self._file.write(part)
        start, first = self._offset, self._offset + len(header)
        self._offset = first + len(data) + len(padding)
        return Place(header=start, data=first, end=self._offset)

    def close(self) -> None:
        end = self._offset + 2 * BLOCK
        self._file.write(bytes(2 * BLOCK + -end % tarfile.RECORDSIZE))
