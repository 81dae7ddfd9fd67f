"""Streams and lines without secrets: for the terminal, and for what programs print."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from orchestrator.redaction.formats import MASK, PRIVATE_KEY_BEGIN, PRIVATE_KEY_END
from orchestrator.redaction.masking import mask_text

MAX_KEY_LINES = 200  # of a private key whose end never comes


class LineMasker:
    """Masks a text line by line, also a private key, which spans lines."""

    def __init__(self) -> None:
        self._key_lines = 0  # of the private key that is open; 0: none is

    def mask(self, line: str) -> str:
        if self._key_lines:
            end = PRIVATE_KEY_END.search(line)
            self._key_lines = 0 if end or self._key_lines >= MAX_KEY_LINES else self._key_lines + 1
            return MASK + (mask_text(line[end.end() :]) if end else "")
        begin = PRIVATE_KEY_BEGIN.search(line)
        if begin and not PRIVATE_KEY_END.search(line, begin.end()):
            self._key_lines = 1
        return mask_text(line)


class MaskedStream(io.TextIOBase):
    """Writes to another stream, without secrets. It has no `buffer`, so that nothing writes past it.

    Once nothing reads the stream any more, as after `| head`, what is written is dropped: a command goes on quietly and
    ends with the code that it has anyway.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_broken = False  # nothing reads it any more

    def write(self, text: str | bytes) -> int:
        """Also bytes, as click writes them to a stream without a `buffer`. b"" is refused, as by all text streams."""
        if isinstance(text, bytes):
            if not text:
                raise TypeError("write() argument must be str, not bytes")
            text = text.decode("utf-8", "replace")
        with self._unless_broken():
            self._stream.write(mask_text(text))
        return len(text)

    def flush(self) -> None:
        with self._unless_broken():
            self._stream.flush()

    @contextmanager
    def _unless_broken(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.is_broken = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def isatty(self) -> bool:
        return not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute of the base class
        return self._stream.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # as above
        return self._stream.errors


def is_output_closed() -> bool:
    """Whether nothing reads standard output any more, so that following something is of no use."""
    return isinstance(sys.stdout, MaskedStream) and sys.stdout.is_broken


@contextmanager
def masked_terminal() -> Iterator[None]:
    """Until the block ends, nothing reaches standard output or standard error with a secret."""
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = MaskedStream(stdout), MaskedStream(stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
