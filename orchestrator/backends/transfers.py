"""Moves large objects between a bucket and this machine: in ranges, in parallel, continued where a connection broke.

Rule: all ranges of one read are of one version of the object, whose ETag every request names. No time-out covers a
whole transfer: a connection on which nothing arrives is given up, and what had arrived is kept.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import obstore
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore as Bucket

from orchestrator.errors import StoreError

log = logging.getLogger(__name__)

MIB = 1024**2
FIRST_BYTES = 64 * MIB  # asked for by the first request, whose answer tells the size; beyond, ranges in parallel
RANGE_BYTES = 16 * MIB
PARALLEL_RANGES = 4  # of one object; so many ranges are in memory at a time
YIELD_BYTES = MIB // 4  # handed on at a time; at most this much arrives twice after a break
MAX_BREAKS = 5  # in a row without one new byte
BREAK_WAIT_S = 0.2  # times the number of breaks in a row

SMALL_BYTES = 8 * MIB  # up to this size one request to write; beyond, parts of at least this size
MAX_PARTS = 10_000  # of a multipart upload or copy; S3, and those who speak its protocol
MAX_PART_BYTES = 5 * 1024**3
UPLOAD_BYTES_IN_FLIGHT = 64 * MIB

_NO_SUCH_RANGE = re.compile(r"\b416\b|InvalidRange")
_FAILED_REQUEST = "Error performing"  # `obstore` has tried again; all other errors are of an answer without sense
_PERMANENT = (
    FileNotFoundError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)


class OvertakenError(StoreError):
    """An object that nobody may replace was replaced by another program."""


def part_bytes(size: int) -> int:
    """The size of the parts in which `size` bytes are written: the smallest that needs no more than `MAX_PARTS`.

    Raises: StoreError: no object store takes so much in one object.
    """
    needed = -(-size // MAX_PARTS)
    if needed > MAX_PART_BYTES:
        raise StoreError(
            f"{size:,} bytes: more than an object can have ({MAX_PARTS * MAX_PART_BYTES:,} bytes: {MAX_PARTS:,} parts "
            f"of {MAX_PART_BYTES:,}); write several smaller files"
        )
    return max(SMALL_BYTES, -(-needed // MIB) * MIB)


def parts_in_flight(part: int) -> int:
    """How many parts of this size are sent at a time, so that memory stays bounded."""
    return max(2, UPLOAD_BYTES_IN_FLIGHT // part)


def read_chunks(bucket: Bucket, key: str, offset: int = 0) -> Iterator[memoryview]:
    """The bytes of an object from `offset`, in order. Nothing is requested before the first is asked for.

    Raises:
        FileNotFoundError: there is no object.
        OvertakenError: it was replaced while it was read.
        BaseError, OSError: `MAX_BREAKS` connections in a row brought nothing.
    """
    if offset and offset >= obstore.head(bucket, key)["size"]:
        return
    opened = _open(bucket, key, offset)
    version = _Version(bucket=bucket, key=key, size=opened.meta["size"], etag=opened.meta.get("e_tag"))
    first_end = min(offset + FIRST_BYTES, version.size)
    if first_end == version.size:
        yield from version.read(offset, first_end, opened)
        return
    starts = iter(range(first_end, version.size, RANGE_BYTES))
    threads = ThreadPoolExecutor(PARALLEL_RANGES, thread_name_prefix="range")
    pending: deque[Future[list[memoryview]]] = deque()
    try:
        pending.extend(threads.submit(version.read_range, start) for start in islice(starts, PARALLEL_RANGES))
        yield from version.read(offset, first_end, opened)
        while pending:
            chunks = pending.popleft().result()
            pending.extend(threads.submit(version.read_range, start) for start in islice(starts, 1))
            yield from chunks
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _open(bucket: Bucket, key: str, offset: int) -> Any:
    for breaks in range(1, MAX_BREAKS + 1):
        try:
            return obstore.get(bucket, key, options={"range": (offset, offset + FIRST_BYTES)})
        except _PERMANENT:
            raise
        except BaseError as error:
            if _NO_SUCH_RANGE.search(str(error)):
                break
            if _FAILED_REQUEST in str(error) or breaks == MAX_BREAKS:
                raise
            log.info("%s: asked again, as the answer was no such range: %s", key, str(error)[:200])
            time.sleep(BREAK_WAIT_S * breaks)
    return obstore.get(bucket, key)  # an empty object has no first byte


@dataclass(frozen=True, kw_only=True)
class _Version:
    """One version of an object, as the first answer described it."""

    bucket: Bucket
    key: str
    size: int
    etag: str | None  # None: the store gives none

    def read_range(self, start: int) -> list[memoryview]:
        return list(self.read(start, min(start + RANGE_BYTES, self.size)))

    def read(self, start: int, end: int, opened: Any = None) -> Iterator[memoryview]:
        """The bytes from `start` to before `end`; `opened`: an answer that begins at `start`, if there is one."""
        at, breaks = start, 0
        while at < end:
            try:
                answer, opened = opened or self._request(at, end), None
                for chunk in answer.stream(min_chunk_size=YIELD_BYTES):
                    arrived = memoryview(chunk)[: end - at]
                    at, breaks = at + len(arrived), 0
                    yield arrived
                    if at == end:
                        return
                raise ConnectionError(f"the connection ended after {at:,} of {self.size:,} bytes")
            except PreconditionError as error:
                raise OvertakenError(
                    f"'{self.key}' was replaced while it was read: found another ETag than {self.etag}, which it had "
                    "at first. Objects here are written once: another program writes to this bucket. Try again"
                ) from error
            except _PERMANENT:
                raise
            except (BaseError, OSError) as error:
                breaks += 1
                if breaks > MAX_BREAKS:
                    raise
                log.info("%s: broke at byte %d, going on from there: %s", self.key, at, str(error)[:200])
                time.sleep(BREAK_WAIT_S * breaks)

    def _request(self, start: int, end: int) -> Any:
        options: Any = {"range": (start, end), **({"if_match": self.etag} if self.etag else {})}
        return obstore.get(self.bucket, self.key, options=options)
