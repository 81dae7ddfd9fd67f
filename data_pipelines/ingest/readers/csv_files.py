"""Units of CSV and TSV files with a header, compressed or not, in UTF-8, 16 or 32."""

import csv
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import IO

from data_pipelines.archives.compressed_files import decode_text, open_text
from data_pipelines.datasets.records import Reject
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.readers.table_files import ambiguous_columns, row_units
from data_pipelines.ingest.units import IngestShard, OtherFiles, Unit, digest

MAX_RECORD_LINES = 1000  # a quote that nobody closes must not swallow the rest of the file


def csv_units(shard: IngestShard, config: IngestConfig, _files: OtherFiles) -> Iterator[Unit]:
    """Units of the rows after the header; an empty cell is as if the column were absent."""
    csv.field_size_limit(config.max_line_bytes)
    with open_text(Path(shard.file), config.max_unpacked_bytes) as text:
        records = _records(text.file, config.max_line_bytes)
        header_text = next(records, b"")
        if isinstance(header_text, Reject) or not header_text.strip():
            detail = header_text.detail if isinstance(header_text, Reject) else "the file is empty: no header"
            yield Unit(row=-1, content=Reject(reason="bad_schema", detail=detail), raw_sha256=digest(b""))
            return
        separator = _separator(header_text)
        header = _cells(header_text, separator)
        if isinstance(header, Reject):
            yield Unit(row=-1, content=header, raw_sha256=digest(header_text))
            return
        if (ambiguous := ambiguous_columns(header, config)) is not None:
            yield Unit(row=-1, content=ambiguous, raw_sha256=digest(header_text))
            return
        for row, data in enumerate(records):
            if text.problem and not (isinstance(data, bytes) and data.endswith(b"\n")):
                break
            yield from _record_units(row, data, header, separator, config)
        if text.problem:
            reject = Reject(reason="truncated_archive", detail=f"{text.problem}; what follows is lost")
            yield Unit(row=-1, content=reject, raw_sha256=digest(b""))


def _record_units(
    row: int, data: bytes | Reject, header: list[str], separator: str, config: IngestConfig
) -> Iterator[Unit]:
    if isinstance(data, bytes) and not data.strip():
        return
    cells = data if isinstance(data, Reject) else _cells(data, separator)
    raw = digest(data if isinstance(data, bytes) else data.detail.encode())
    if isinstance(cells, Reject):
        yield Unit(row=row, content=cells, raw_sha256=raw)
    elif len(cells) != len(header):
        detail = f"{len(cells)} cells, the header has {len(header)}"
        yield Unit(row=row, content=Reject(reason="bad_schema", detail=detail), raw_sha256=raw)
    else:
        fields = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
        yield from row_units(row, fields, config)


def _records(file: IO[bytes] | BufferedIOBase, max_bytes: int) -> Iterator[bytes | Reject]:
    """The lines of each record: one, or several where a quoted cell holds line ends."""
    pending: list[bytes] = []

    def next_line() -> bytes:
        if pending:
            return pending.pop(0)
        line: bytes = file.readline(max_bytes + 1)
        rest = line
        while len(rest) > max_bytes and not rest.endswith(b"\n"):  # a line that is too long is one line all the same
            rest = file.readline(max_bytes + 1)
        return line

    while line := next_line():
        lines = [line]
        while b"".join(lines).count(b'"') % 2 and len(lines) < MAX_RECORD_LINES and sum(map(len, lines)) <= max_bytes:
            following = next_line()
            if not following:
                break
            lines.append(following)
        record = b"".join(lines)
        if record.count(b'"') % 2 == 0 and len(record) <= max_bytes:
            yield record
            continue
        yield Reject(reason="bad_schema", detail=f"a quote that is not closed, or a line longer than {max_bytes} bytes")
        pending[:0] = lines[1:]


def _separator(header: bytes) -> str:
    return max(",\t;|", key=lambda mark: (header.count(mark.encode()), mark == ","))


def _cells(data: bytes, separator: str) -> list[str] | Reject:
    text = decode_text(data)
    try:
        rows = list(csv.reader(text.splitlines(keepends=True), delimiter=separator, strict=False))
    except csv.Error as error:
        return Reject(reason="bad_schema", detail=f"not a row of cells: {error}")
    return [cell for row in rows for cell in row]
