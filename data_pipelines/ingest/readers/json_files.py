"""Units of JSON files: JSON lines, or documents, whose values and lists of values span many lines.

ijson is not used, though it is as fast: a unit is known by the digest of its bytes, which ijson does not give; no value
may exceed a limit; and lists without brackets or with values side by side are read too. Tests compare with it.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.archives.compressed_files import OpenedText, open_text
from data_pipelines.datasets.records import Record, Reject
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.layouts.objects import parse_object
from data_pipelines.ingest.readers.coco_files import MAX_BYTES, coco_units, is_coco, may_be_coco
from data_pipelines.ingest.units import IngestShard, OtherFiles, Unit, decode_json, digest

BLANK_LINES = 1000  # at most skipped before the first value of a file
CHUNK_BYTES = 1 << 16
_BETWEEN = re.compile("[ \t\r\n,\\[\\]\ufeff]*")  # separators between the values of a list
_NUMBER_GOES_ON = re.compile(r"(?:\.|[eE][+-]?)?")  # what may stand between the value read so far and more digits
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)  # finds where a value ends, whatever its numbers


def json_units(shard: IngestShard, config: IngestConfig, _files: OtherFiles) -> Iterator[Unit]:
    """Units of a file of JSON lines, or of a document: values, or a list of values, that span many lines; or of an
    object of COCO captions.

    The file may be compressed, and in UTF-8, UTF-16 or UTF-32.
    """
    path = Path(shard.file)
    coco = _coco_object(path, config) if shard.start_byte == 0 else None
    if coco is not None:
        yield from coco_units(coco, config)
        return
    whole = shard.start_byte == 0 and _is_document(path, config)
    with open_text(path, config.max_unpacked_bytes) as text:
        if not whole and text.is_plain:
            text.file.seek(shard.start_byte)
        yield from _document_units(text, config) if whole else _line_units(text, shard, config)
        if text.problem:
            reject = Reject(reason="truncated_archive", detail=f"{text.problem}; what follows is lost")
            yield Unit(row=-1, content=reject, raw_sha256=digest(b""))


def _coco_object(path: Path, config: IngestConfig) -> dict[str, Any] | None:
    """The object of a file of COCO captions; None for any other file."""
    with open_text(path, config.max_unpacked_bytes) as text:
        if not may_be_coco(text.file.peek(CHUNK_BYTES)[:CHUNK_BYTES]):
            return None
        first = text.file.readline(config.max_line_bytes)
        whole = first + (text.file.read(MAX_BYTES) if b'"annotations"' in first or len(first.strip()) < 2 else b"")
        if len(whole) == len(first) and len(first) >= config.max_line_bytes:
            whole += text.file.read(MAX_BYTES)
    try:
        value = decode_json(whole)
    except ValueError:
        return None
    return value if is_coco(value) else None


def _is_document(path: Path, config: IngestConfig) -> bool:
    """True if the first line only opens a value, holds part of a list, or is a list and the only line."""
    with open_text(path, config.max_unpacked_bytes) as text:
        first = _next_line(text.file, config).removeprefix(codecs.BOM_UTF8).strip()
        if first in (b"{", b"["):
            return True
        if not first.startswith(b"["):
            return False
        return (
            first.endswith((b",", b"{", b"["))
            or len(first) >= config.max_line_bytes
            or not _next_line(text.file, config)
        )


def _next_line(file: io.BufferedIOBase, config: IngestConfig) -> bytes:
    """The next line that is not blank; empty after `BLANK_LINES` blank ones."""
    lines = (file.readline(config.max_line_bytes) for _ in range(BLANK_LINES))
    return next((line for line in lines if line.strip()), b"")


def _line_units(text: OpenedText, shard: IngestShard, config: IngestConfig) -> Iterator[Unit]:
    row, offset, file = shard.first_row, shard.start_byte, text.file
    while shard.stop_byte < 0 or offset < shard.stop_byte:
        line = file.readline(config.max_line_bytes + 1)
        if not line or (text.problem and not line.endswith(b"\n")):
            return
        offset += len(line)
        if len(line) > config.max_line_bytes and not line.endswith(b"\n"):
            while rest := file.readline(1 << 20):
                offset += len(rest)
                if rest.endswith(b"\n"):
                    break
            detail = f"a line longer than {config.max_line_bytes} bytes"
            yield Unit(row=row, content=Reject(reason="broken_json", detail=detail), raw_sha256=digest(line))
        elif line.strip():
            yield from _decoded_units(row, line, line.rstrip(b"\r\n"), config)
        row += 1


def _decoded_units(row: int, data: bytes, raw: bytes, config: IngestConfig) -> Iterator[Unit]:
    """The units of one value; `raw`: the bytes that it is known by."""
    contents: list[Record | Reject]
    try:
        contents = parse_object(decode_json(data), config)
    except ValueError as error:
        contents = [Reject(reason="broken_json", detail=str(error)[:200])]
    for content in contents:
        yield Unit(row=row, content=content, raw_sha256=digest(raw))


def _document_units(text: OpenedText, config: IngestConfig) -> Iterator[Unit]:
    row = 0
    try:
        for value in _values(text.file, config.max_line_bytes):
            yield from _decoded_units(row, value, value, config)
            row += 1
    except ValueError as error:
        if not text.problem:  # else the value is only cut off
            reject = Reject(reason="broken_json", detail=f"{error}; what follows is lost")
            yield Unit(row=row, content=reject, raw_sha256=digest(f"{row}: {error}".encode()))


def _values(file: io.BufferedIOBase, max_bytes: int) -> Iterator[bytes]:
    """The bytes of each value of a document; the items of a list are separate values.

    Raises: ValueError for the first broken value, since the start of the next one is then unknown.
    """
    utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # encoding again gives the same bytes
    buffer, start, is_end = "", 0, False
    while start < len(buffer) or not is_end:
        end, problem = _end_of_value(buffer, start)
        if not problem and not is_end and buffer[end - 1] not in '}]"' and _NUMBER_GOES_ON.fullmatch(buffer, end):
            problem = "may go on"
        if not problem:
            yield buffer[start:end].encode("utf-8", "surrogateescape")
            start = _skip(_BETWEEN, buffer, end)
        elif is_end or len(buffer) - start > max_bytes:
            raise ValueError(problem)
        else:
            data = file.read(max(CHUNK_BYTES, len(buffer) - start))
            buffer, is_end = buffer[start:] + utf8.decode(data, final=not data), not data
            start = _skip(_BETWEEN, buffer, 0)


def _end_of_value(text: str, start: int) -> tuple[int, str]:
    """(end of the value at `start`, ""), or (-1, what is wrong with it); more text may complete the value."""
    try:
        return _DECODER.raw_decode(text, start)[1], ""
    except json.JSONDecodeError as error:
        return -1, f"{error.msg}, in a value that begins with {text[start : start + 40]!r}"
    except RecursionError:
        return -1, "nested too deeply"


def _skip(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start


def line_ranges(path: Path, config: IngestConfig) -> list[tuple[int, int, int]]:
    """(first row, start byte, stop byte) of pieces of `rows_per_shard` lines.

    Files that cannot be split, compressed ones and documents, are one piece.
    """
    with open_text(path, config.max_unpacked_bytes) as text:
        if not text.is_plain or _is_document(path, config) or _coco_object(path, config) is not None:
            return [(0, 0, -1)]
        ranges, first, start, rows = [], 0, 0, 0
        while text.file.readline():
            rows += 1
            if rows - first == config.rows_per_shard:
                stop = text.file.tell()
                ranges.append((first, start, stop))
                first, start = rows, stop
        if rows > first or not ranges:
            ranges.append((first, start, text.file.tell()))
    return ranges
