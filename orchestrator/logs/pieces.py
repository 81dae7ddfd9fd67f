"""Log files in a remote store, as write-once pieces that are uploaded while the file is being written.

    runs/<run>/logs/<file>/<writer>-<start>-<end>.log    bytes start to end of what a writer wrote

A few seconds after a line was written it is in the store, so that a node that is lost takes seconds of its logs with
it. Pieces are merged as they become many: a larger piece is written, then those inside it are deleted. Readers choose
the largest piece at each position, so that a merge that was cut off does no harm.
"""

import logging
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store.store import Store
from orchestrator.times import log_time

log = logging.getLogger(__name__)

UPLOAD_S = 5.0
MAX_SMALL_PIECES = 100  # then they are merged: 9 minutes at `UPLOAD_S`
PIECE_BYTES = 4 * 1024**2  # a piece of this size is not merged again
_PIECE = re.compile(r"(?P<file>[^/]+)/(?P<writer>\w+)-(?P<start>\d{12})-(?P<end>\d{12})\.log")


@dataclass(frozen=True, kw_only=True)
class Piece:
    file: str  # "curated-1-1.log"
    writer: str  # sorts by the time at which it began to write
    start: int  # bytes
    end: int

    @property
    def name(self) -> str:
        return f"{self.file}/{self.writer}-{self.start:012d}-{self.end:012d}.log"


def list_pieces(store: Store, folder: str) -> dict[str, list[Piece]]:
    """The pieces below a folder of logs by the name of their file, in the order of their bytes, none overlapping."""
    found: dict[str, list[Piece]] = {}
    for item in store.list(folder):
        match = _PIECE.fullmatch(item.key.removeprefix(f"{folder}/"))
        if match:
            piece = Piece(file=match["file"], writer=match["writer"], start=int(match["start"]), end=int(match["end"]))
            found.setdefault(piece.file, []).append(piece)
    return {file: list(_without_overlaps(pieces)) for file, pieces in found.items()}


def _without_overlaps(pieces: Iterable[Piece]) -> Iterator[Piece]:
    writer, end = "", 0
    for piece in sorted(pieces, key=lambda piece: (piece.writer, piece.start, -piece.end)):
        if piece.writer != writer:
            writer, end = piece.writer, 0
        if piece.start >= end:
            yield piece
            end = piece.end


class PieceUploader:
    """Uploads one local log file, from where it is when the uploader is made, or from where an earlier one ended."""

    def __init__(self, store: Store, folder: str, path: Path, *, writer: str, start: int = 0) -> None:
        self._store, self._folder, self._path, self._writer = store, folder, path, writer
        self._small: list[Piece] = []
        self._end = start
        self._warned = False

    @classmethod
    def continuing(cls, store: Store, folder: str, path: Path, *, now_s: float) -> "PieceUploader":
        """Goes on where the last uploader of the file ended, e.g. one in a process that was killed.

        Raises: StoreError.
        """
        pieces = list_pieces(store, f"{folder}").get(path.name, [])
        writer = pieces[-1].writer if pieces else writer_name(now_s)
        uploader = cls(store, folder, path, writer=writer)
        uploader._small = [piece for piece in pieces if piece.writer == writer and _is_small(piece)]
        uploader._end = max((piece.end for piece in pieces if piece.writer == writer), default=0)
        return uploader

    def upload_new(self) -> None:
        """Upload what was added since the last call. A store that is away only delays it."""
        try:
            while data := self._read(self._end, PIECE_BYTES):
                self._put(
                    Piece(file=self._path.name, writer=self._writer, start=self._end, end=self._end + len(data)), data
                )
                self._end += len(data)
            self._warned = False
        except (StoreError, OSError) as error:
            if not self._warned:
                log.warning("log %s: uploading it is delayed: %s", self._path.name, error)
            self._warned = True

    def finish(self) -> None:
        """Upload the rest and merge the small pieces."""
        self.upload_new()
        try:
            self._merge()
        except (StoreError, OSError) as error:  # readers do not need it
            log.warning("log %s: its pieces are not merged: %s", self._path.name, error)

    def _put(self, piece: Piece, data: bytes) -> None:
        self._store.put_new(f"{self._folder}/{piece.name}", data)
        if _is_small(piece):
            self._small.append(piece)
        if len(self._small) >= MAX_SMALL_PIECES:
            self._merge()

    def _merge(self) -> None:
        """Write the small pieces at the end of the file as one, then delete them."""
        merged, self._small = self._small, []
        if len(merged) < 2:
            self._small = merged
            return
        whole = Piece(file=self._path.name, writer=self._writer, start=merged[0].start, end=merged[-1].end)
        self._store.put_new(f"{self._folder}/{whole.name}", self._read(whole.start, whole.end - whole.start))
        for piece in merged:
            self._store.delete(f"{self._folder}/{piece.name}")
        if _is_small(whole):
            self._small = [whole]

    def _read(self, start: int, size: int) -> bytes:
        if not self._path.exists():
            return b""
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(size)


class UploadThread:
    """Uploads a log file every `UPLOAD_S` until it is closed."""

    def __init__(self, uploader: PieceUploader) -> None:
        self._uploader = uploader
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="log upload", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._uploader.finish()

    def _loop(self) -> None:
        while not self._closed.wait(UPLOAD_S):
            self._uploader.upload_new()


def writer_name(now_s: float) -> str:
    """`20250131T081500250`."""
    return re.sub(r"[^\dT]", "", log_time(now_s))


def _is_small(piece: Piece) -> bool:
    return piece.end - piece.start < PIECE_BYTES
