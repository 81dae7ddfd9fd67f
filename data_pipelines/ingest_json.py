"""Units of JSON files: one value in each line, or pretty-printed values one after the other."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from data_pipelines.ingest_config import IngestConfig
from data_pipelines.ingest_units import IngestShard, Unit, decode_json, digest
from data_pipelines.records import Record, Reject, parse_record


def json_units(shard: IngestShard, config: IngestConfig) -> Iterator[Unit]:
    """Units of a JSON-lines file, gzip or not; also of a file of pretty-printed values that span many lines."""
    with _open_text(Path(shard.file)) as file:
        try:
            if shard.start_byte == 0 and _is_pretty_printed(file):
                yield from _document_units(file, config)
            else:
                file.seek(shard.start_byte)
                yield from _line_units(file, shard, config)
        except (EOFError, OSError, zlib.error) as error:
            detail = f"the compressed file is damaged ({error}); what follows is lost"
            yield Unit(row=-1, content=Reject(reason="truncated_archive", detail=detail), raw_sha256=digest(b""))


def _open_text(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")


def _is_pretty_printed(file: IO[bytes]) -> bool:
    """True if the first line with anything in it only opens a value."""
    file.seek(0)
    for _ in range(1000):
        line = file.readline(4096)
        if not line or line.strip().removeprefix(b"\xef\xbb\xbf"):
            break
    file.seek(0)
    return line.strip().removeprefix(b"\xef\xbb\xbf") in (b"{", b"[")


def _line_units(file: IO[bytes], shard: IngestShard, config: IngestConfig) -> Iterator[Unit]:
    row, place = shard.first_row, shard.start_byte
    while shard.stop_byte < 0 or place < shard.stop_byte:
        line = file.readline(config.max_line_bytes + 1)
        if not line:
            return
        place += len(line)
        if len(line) > config.max_line_bytes and not line.endswith(b"\n"):
            while rest := file.readline(1 << 20):
                place += len(rest)
                if rest.endswith(b"\n"):
                    break
            detail = f"a line longer than {config.max_line_bytes} bytes"
            yield Unit(row=row, content=Reject(reason="broken_json", detail=detail), raw_sha256=digest(line))
        elif line.strip():
            yield Unit(row=row, content=_decoded_record(line), raw_sha256=digest(line.rstrip(b"\r\n")))
        row += 1


def _decoded_record(data: bytes) -> Record | Reject:
    try:
        value = decode_json(data)
    except ValueError as error:
        return Reject(reason="broken_json", detail=str(error)[:200])
    return parse_record(value)


def _document_units(file: IO[bytes], config: IngestConfig) -> Iterator[Unit]:
    """Units of a file that holds JSON values one after the other, or one list of them."""
    data = file.read(config.max_line_bytes + 1)
    if len(data) > config.max_line_bytes:
        detail = f"pretty-printed JSON of more than {config.max_line_bytes} bytes; write one value in each line"
        yield Unit(row=0, content=Reject(reason="broken_json", detail=detail), raw_sha256=digest(data))
        return
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    place, row = 0, 0
    while rest := text[place:].lstrip():
        place = len(text) - len(rest)
        try:
            _, place = json.JSONDecoder().raw_decode(text, place)
            values = decode_json(text[len(text) - len(rest) : place].encode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            detail = f"{error or 'nested too deeply'}; what follows is lost"[:300]
            yield Unit(row=row, content=Reject(reason="broken_json", detail=detail), raw_sha256=digest(rest.encode()))
            return
        for value in values if isinstance(values, list) else [values]:
            raw = json.dumps(value, sort_keys=True).encode()
            yield Unit(row=row, content=parse_record(value), raw_sha256=digest(raw))
            row += 1


def line_ranges(path: Path, rows_per_shard: int) -> list[tuple[int, int, int]]:
    """(first row, start byte, stop byte) of pieces of `rows_per_shard` lines.

    Files that cannot be cut, compressed or pretty-printed, are one piece.
    """
    with _open_text(path) as file:
        if isinstance(file, gzip.GzipFile) or _is_pretty_printed(file):
            return [(0, 0, -1)]
    ranges, first, start, rows = [], 0, 0, 0
    with io.BufferedReader(io.FileIO(path), 1 << 20) as lines:
        while lines.readline():
            rows += 1
            if rows - first == rows_per_shard:
                stop = lines.tell()
                ranges.append((first, start, stop))
                first, start = rows, stop
        if rows > first or not ranges:
            ranges.append((first, start, lines.tell()))
    return ranges
