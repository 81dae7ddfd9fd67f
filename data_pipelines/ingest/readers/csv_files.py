"""Units of CSV and TSV files with a header, compressed or not, in UTF-8, 16 or 32.

Python's `csv` is not used: it reads a quote that nobody closes on to the end of the file without a word, and takes the
quotes away from a cell that only begins with a quoted word. Tests compare with it on sound tables.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.archives.compressed_files import OpenedText, decode_text, open_text
from data_pipelines.datasets.records import Reject, utf8_safe
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.layouts.captions import CAPTION_KEYS
from data_pipelines.ingest.layouts.chat import TURN_KEYS
from data_pipelines.ingest.layouts.objects import IMAGE_KEYS
from data_pipelines.ingest.readers.table_files import ambiguous_columns, row_units
from data_pipelines.ingest.units import IngestShard, OtherFiles, Unit, digest

MAX_RECORD_LINES = 1000  # a quote that nobody closes must not swallow the rest of the file
PEEK_BYTES = 1 << 16
_SEPARATORS = ",\t;|"
_USUAL = frozenset((*IMAGE_KEYS, *CAPTION_KEYS, *TURN_KEYS, "title"))
_SEPARATOR_LINE = re.compile(rb'"?sep=([,\t;|])"?\r?\n?')  # Excel's word for itself, before the header


def csv_units(shard: IngestShard, config: IngestConfig, _files: OtherFiles) -> Iterator[Unit]:
    """Units of the rows after the header; an empty cell is as if the column were absent."""
    with open_text(Path(shard.file), config.max_unpacked_bytes) as text:
        next_line = _line_reader(text, config.max_line_bytes)
        first = next_line().removeprefix(b"\xef\xbb\xbf")
        stated = _SEPARATOR_LINE.fullmatch(first)
        first = next_line() if stated else first
        separator = stated[1].decode() if stated else _separator(first, config)
        records = _records(first, next_line, separator, config.max_line_bytes)
        header_text = next(records, b"")
        if isinstance(header_text, Reject):
            yield Unit(row=-1, content=header_text, raw_sha256=digest(b""))
            return
        problem = _header_problem(header_text, separator, config)
        if problem is not None:
            yield Unit(row=-1, content=problem, raw_sha256=digest(header_text))
            if problem.reason == "ambiguous_sample" or not header_text.strip():
                return
        header = cells_of(decode_text(header_text), separator)[0]
        for row, data in enumerate(records):
            if text.problem and not (isinstance(data, bytes) and data.endswith(b"\n")):
                break
            yield from _record_units(row, data, header, separator, config)
        if text.problem:
            reject = Reject(reason="truncated_archive", detail=f"{text.problem}; what follows is lost")
            yield Unit(row=-1, content=reject, raw_sha256=digest(b""))


def _header_problem(header: bytes, separator: str, config: IngestConfig) -> Reject | None:
    """What is wrong with the first record, which names the columns. Rows are read all the same if it names none."""
    if not header.strip():
        return Reject(reason="bad_schema", detail="the file is empty: no header")
    names = cells_of(decode_text(header), separator)[0]
    if (ambiguous := ambiguous_columns(names, config)) is not None:
        return ambiguous
    if _num_known(names, config):
        return None
    shown = utf8_safe(", ".join(map(repr, names[:6])))[:200]
    detail = f"the first line is the header, and no column in it is read: {shown}; expected such as 'image', 'caption'"
    return Reject(reason="bad_schema", detail=detail)


def _num_known(names: Sequence[str], config: IngestConfig) -> int:
    """How many columns hold images, words or turns by their names."""
    stated = {name.partition(".")[0] for key in ("image", "caption") for name in config.names_of(key)}
    return sum(name in stated or name.strip().lower() in _USUAL for name in names)


def _record_units(
    row: int, data: bytes | Reject, header: Sequence[str], separator: str, config: IngestConfig
) -> Iterator[Unit]:
    if isinstance(data, bytes) and not data.strip():
        return
    raw = digest(data if isinstance(data, bytes) else data.detail.encode())
    cells = [] if isinstance(data, Reject) else cells_of(decode_text(data), separator)[0]
    if isinstance(data, Reject):
        yield Unit(row=row, content=data, raw_sha256=raw)
    elif len(cells) != len(header):
        detail = f"{len(cells)} cells, the header has {len(header)}"
        yield Unit(row=row, content=Reject(reason="bad_schema", detail=detail), raw_sha256=raw)
    else:
        fields: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
        yield from row_units(row, fields, config)


def _line_reader(text: OpenedText, max_bytes: int) -> Callable[[], bytes]:
    """Reads the next line, of which at most `max_bytes` and one are kept; empty at the end. Lines end with a line
    feed, or with a carriage return in a file that begins without any line feed, as old spreadsheets write."""
    head = text.file.peek(PEEK_BYTES)[:PEEK_BYTES]
    if b"\r" in head and b"\n" not in head:
        wrapped = io.TextIOWrapper(text.file, "utf-8", "surrogateescape", newline="\r")

        def read(size: int) -> bytes:
            line = wrapped.readline(size)
            return (line[:-1] + "\n" if line.endswith("\r") else line).encode("utf-8", "surrogateescape")

    else:

        def read(size: int) -> bytes:
            return text.file.readline(size)

    def next_line() -> bytes:
        line = read(max_bytes + 1)
        rest = line
        while len(rest) > max_bytes and not rest.endswith(b"\n"):  # a line that is too long is one line all the same
            rest = read(max_bytes + 1)
        return line

    return next_line


def _records(first: bytes, next_line: Callable[[], bytes], separator: str, max_bytes: int) -> Iterator[bytes | Reject]:
    """The lines of each record: one, or several where a quoted cell holds line ends. A record whose quote is not
    closed where a cell ends costs its first line alone."""
    pending = [first]

    def line_after() -> bytes:
        return pending.pop(0) if pending else next_line()

    while line := line_after():
        lines, state = [line], cells_of(decode_text(line), separator)[1] if b'"' in line else "closed"
        while state == "open" and len(lines) < MAX_RECORD_LINES and sum(map(len, lines)) <= max_bytes:
            following = line_after()
            if not following:
                break
            lines.append(following)
            if b'"' in following:
                state = cells_of(decode_text(b"".join(lines)), separator)[1]
        record = b"".join(lines)
        if state == "closed" and len(record) <= max_bytes:
            yield record
            continue
        yield Reject(reason="bad_schema", detail=f"a quote that is not closed, or a line longer than {max_bytes} bytes")
        pending[:0] = lines[1:]


def _separator(header: bytes, config: IngestConfig) -> str:
    """The mark that parts the header into most columns that are read, then into most columns."""

    def merits(mark: str) -> tuple[int, int, bool]:
        names = cells_of(decode_text(header), mark)[0]
        return _num_known(names, config), len(names), mark == ","

    return max(_SEPARATORS, key=merits)


_QUOTED = {mark: re.compile(rf'"([^"]*+(?:""[^"]*+)*+)"(?={re.escape(mark)}|\Z)') for mark in _SEPARATORS}
_OPEN = re.compile(r'"[^"]*+(?:""[^"]*+)*+\Z')


def cells_of(text: str, separator: str) -> tuple[list[str], str]:
    """The cells of a record, and how it ends: "closed"; "open" within a quoted cell, so the next line may go on; or
    "broken".

    A quote is a mark only where it begins a cell: a 12" board is text. A cell of one line that begins with a quoted
    word ("yes" she said) is text too.
    """
    text = text.removesuffix("\n").removesuffix("\r")
    cells: list[str] = []
    start, state = 0, "closed"
    while True:
        quoted = _QUOTED[separator].match(text, start)
        if quoted is not None:
            cells.append(quoted[1].replace('""', '"'))
            end = quoted.end()
        else:
            if text.startswith('"', start) and _OPEN.match(text, start):
                return [*cells, text[start:]], "open"
            end = text.find(separator, start)
            end = len(text) if end < 0 else end
            cells.append(text[start:end])
            if cells[-1].startswith('"') and (cells[-1].count('"') % 2 or "\n" in text):
                state = "broken"
        if end >= len(text):
            return cells, state
        start = end + 1
