"""Reads compressed files and files in UTF-16 or UTF-32. Formats are detected by content; names are ignored."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

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
# In the order in which they are tried: a byte order mark of 32 bits begins like one of 16.
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_MARKS = {"\ufeff".encode(encoding): encoding for encoding in _WIDE}


class DecompressedFile(io.RawIOBase):
    """The content of a compressed file. Where the file is damaged or exceeds the limit it ends, and sets `problem`."""

    def __init__(self, file: IO[bytes], opener: Callable[[IO[bytes]], io.BufferedIOBase], max_bytes: int) -> None:
        self.problem = ""
        self._file, self._stream = file, opener(file)
        self._left = self._max_bytes = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        if self.problem:
            return 0
        try:
            data = self._stream.read1(len(view))  # `read` would lose the data before a damaged place
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
            self._stream.close()
            self._file.close()
        super().close()


def open_compressed(path: Path, max_bytes: int) -> DecompressedFile | None:
    """At most `max_bytes` of the content of a file compressed by gzip, bzip2, xz or zstd; None for any other file."""
    file = path.open("rb")
    start = file.read(6)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        file.close()
        return None
    file.seek(0)
    return DecompressedFile(file, opener, max_bytes)


def wide_encoding(start: bytes) -> str | None:
    """The encoding of text that begins with `start`: by its byte order mark, or as that of JSON; None unless UTF-16 or
    32."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    for encoding in _WIDE:
        text = start.decode(encoding, "replace")[:2].removeprefix("\ufeff")
        if text.startswith(("{", "[")):
            return encoding
    return None


def decode_text(data: bytes) -> str:
    """The text in bytes of UTF-8, 16 or 32, without its byte order mark; what is not valid becomes U+FFFD."""
    return data.decode(wide_encoding(data[:8]) or "utf-8", "replace").removeprefix("\ufeff")


class Utf8Stream(io.RawIOBase):
    """A file of another encoding as UTF-8; invalid characters become U+FFFD."""

    def __init__(self, file: io.BufferedIOBase, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = b""  # converted and not yet read

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


@dataclass(frozen=True, kw_only=True)
class OpenedText:
    """A file's bytes as UTF-8, and the decompressor that unpacks them, if any."""

    file: "io.BufferedReader[Any]"
    packed: DecompressedFile | None
    is_plain: bool  # neither compressed nor re-encoded, so reading can start at any byte

    @property
    def problem(self) -> str:
        return self.packed.problem if self.packed else ""


@contextmanager
def open_text(path: Path, max_unpacked_bytes: int) -> Iterator[OpenedText]:
    """A file of text, compressed or not, in UTF-8, UTF-16 or UTF-32."""
    packed = open_compressed(path, max_unpacked_bytes)
    with io.BufferedReader(packed or io.FileIO(path), 1 << 20) as file:
        encoding = wide_encoding(file.peek(8)[:8])
        narrow: io.BufferedReader[Any] = io.BufferedReader(Utf8Stream(file, encoding)) if encoding else file
        yield OpenedText(file=narrow, packed=packed, is_plain=not packed and not encoding)
