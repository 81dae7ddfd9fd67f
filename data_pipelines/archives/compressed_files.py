"""Reads files that are compressed or written in wide characters, whatever their names say."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def _gunzip(file: IO[bytes]) -> io.BufferedIOBase:
    return gzip.GzipFile(fileobj=file)


def _unzstd(file: IO[bytes]) -> io.BufferedIOBase:
    return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))


_OPENERS: dict[bytes, Callable[[IO[bytes]], io.BufferedIOBase]] = {
    b"\x1f\x8b": _gunzip,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _unzstd,
}
# The first that fits is taken: a byte order mark of 32 bits begins like one of 16.
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")


class Unpacked(io.RawIOBase):
    """What is in a compressed file. It ends where that is damaged or over the limit; then `problem` says so."""

    def __init__(self, file: IO[bytes], opener: Callable[[IO[bytes]], io.BufferedIOBase], max_bytes: int) -> None:
        self.problem = ""
        self._file, self._packed = file, opener(file)
        self._left = self._max_bytes = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        if self.problem:
            return 0
        try:
            data = self._packed.read1(len(view))  # a plain `read` would lose what it has at a damaged place
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            self.problem = f"compressed data is damaged ({error})"
            return 0
        if len(data) > self._left:
            self.problem = f"unpacks to more than {self._max_bytes} bytes"
            data = data[: self._left]
        self._left -= len(data)
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._packed.close()
            self._file.close()
        super().close()


def open_packed(path: Path, max_bytes: int) -> Unpacked | None:
    """What a file compressed by gzip, bzip2, xz or zstd holds, at most `max_bytes` of it; None for any other file."""
    file = path.open("rb")
    start = file.read(6)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        file.close()
        return None
    file.seek(0)
    return Unpacked(file, opener, max_bytes)


def wide_encoding(start: bytes) -> str | None:
    """The encoding of JSON that begins so, if its characters have 16 or 32 bits, with or without a byte order mark."""
    for encoding in _WIDE:
        text = start.decode(encoding, "replace")[:2].removeprefix("\ufeff")
        if text.startswith(("{", "[")):
            return encoding
    return None


class Narrowed(io.RawIOBase):
    """A file of wide characters as UTF-8; what is no character becomes U+FFFD."""

    def __init__(self, file: io.BufferedIOBase, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        while not self._ready:
            data = self._file.read1(1 << 16)
            self._ready = self._decoder.decode(data, final=not data).encode()
            if not data and not self._ready:
                return 0
        data, self._ready = self._ready[: len(view)], self._ready[len(view) :]
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
