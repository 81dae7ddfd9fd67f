"""Units of tables, Parquet files and Arrow files as `datasets` saves them, with images or their names in the rows."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.datasets.records import Record, Reject
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.layouts.captions import CAPTION_KEYS, plain_meta
from data_pipelines.ingest.layouts.chat import KNOWN_KEYS, TURN_KEYS, first_filled, parse_record
from data_pipelines.ingest.layouts.nulls import decoded_list
from data_pipelines.ingest.layouts.objects import IMAGE_KEYS, image_cell, parse_object, references
from data_pipelines.ingest.units import IngestShard, OtherFiles, Unit, digest

BATCH_ROWS = 64
STATED_KEYS = ("id", "license", "split", "task")
_CELL_ERRORS = (ValueError, TypeError, ArithmeticError, LookupError, pa.ArrowException)


def parquet_units(shard: IngestShard, config: IngestConfig, _files: OtherFiles) -> Iterator[Unit]:
    """Units of a Parquet file; a row group that is damaged costs its own rows."""
    names_none = holds_all_images(shard, config)  # so an image with empty bytes is not looked up by its name either
    for unit in _parquet_units(shard, config):
        yield replace(unit, images={}) if names_none else unit


def _parquet_units(shard: IngestShard, config: IngestConfig) -> Iterator[Unit]:
    row = shard.first_row
    try:
        with pq.ParquetFile(shard.file) as file:
            if (ambiguous := ambiguous_columns(file.schema_arrow.names, config)) is not None:
                yield Unit(row=-1, content=ambiguous, raw_sha256=digest(ambiguous.detail.encode()))
                return
            stop = shard.first_row + shard.num_rows if shard.num_rows >= 0 else file.metadata.num_rows
            start = 0
            for group in range(file.metadata.num_row_groups):
                length = file.metadata.row_group(group).num_rows
                if start + length > shard.first_row and start < stop:
                    yield from _group_units(file, group, start, range(shard.first_row, stop), config)
                start += length
                row = start
    except (pa.ArrowException, OSError, ValueError) as error:
        yield _broken(error, f"from row {row}")


def _group_units(file: Any, group: int, start: int, wanted: range, config: IngestConfig) -> Iterator[Unit]:
    """Units of the wanted rows of a row group, whose first row is `start`."""
    row = start
    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False):
            low, high = max(wanted.start - row, 0), min(wanted.stop - row, len(batch))
            for number, fields in enumerate(_rows(batch.slice(low, high - low)) if low < high else ()):
                yield from row_units(row + low + number, fields, config)
            row += len(batch)
    except (pa.ArrowException, OSError) as error:
        yield _broken(error, f"from row {row} to the end of row group {group}")


def _broken(error: Exception, where: str) -> Unit:
    if isinstance(error, OSError) and error.errno is not None:
        raise error  # the disk or the network fails: the file is not broken
    detail = f"{where}: {str(error)[:200]}"
    return Unit(row=-1, content=Reject(reason="broken_parquet", detail=detail), raw_sha256=digest(detail.encode()))


def arrow_units(shard: IngestShard, config: IngestConfig, _files: OtherFiles) -> Iterator[Unit]:
    """Units of an Arrow file or stream."""
    row = 0
    try:
        with _arrow_batches(shard.file) as batches:
            for batch in batches:
                if (ambiguous := ambiguous_columns(batch.schema.names, config)) is not None:
                    yield Unit(row=-1, content=ambiguous, raw_sha256=digest(ambiguous.detail.encode()))
                    return
                for first in range(0, len(batch), BATCH_ROWS):
                    for number, fields in enumerate(_rows(batch.slice(first, BATCH_ROWS))):
                        yield from row_units(row + first + number, fields, config)
                row += len(batch)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield _broken(error, f"from row {row}")


@contextmanager
def _arrow_batches(path: str) -> Iterator[Iterator[Any]]:
    with pa.memory_map(path) as file:
        if file.read(6) == b"ARROW1":
            opened = pa.ipc.open_file(file)
            yield (opened.get_batch(number) for number in range(opened.num_record_batches))
        else:
            file.seek(0)
            yield iter(pa.ipc.open_stream(file))


def _rows(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows as Python values. A cell that Python has no value for, such as a date of the year 100,000, is null."""
    try:
        yield from batch.to_pylist()
    except _CELL_ERRORS:
        for number in range(len(batch)):
            cells = (column[number] for column in batch.columns)
            yield {name: _cell_value(cell) for name, cell in zip(batch.schema.names, cells, strict=True)}


def _cell_value(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        data = cell.as_buffer() if hasattr(cell, "as_buffer") else None  # only texts and bytes have one
        return None if data is None else data.to_pybytes().decode("utf-8", "replace")
    except _CELL_ERRORS:
        return None


def ambiguous_columns(names: Sequence[str], config: IngestConfig) -> Reject | None:
    """Why a table cannot be read: two columns of images or words have one name but for case, and none is stated."""
    counts: Counter[str] = Counter()
    for stated, usual in (("image", IMAGE_KEYS), ("caption", CAPTION_KEYS), ("", TURN_KEYS), ("", STATED_KEYS)):
        meant = config.names_of(stated) if stated else ()
        counts.update(name for name in names if name in meant)
        counts.update(name.lower() for name in names if not meant and name.lower() in usual)
    twice = [name for name, count in counts.items() if count > 1]
    if not twice:
        return None
    return Reject(reason="ambiguous_sample", detail=f"two columns are called {twice[0]!r}; rename one of them")


def row_units(row: int, fields: dict[str, Any], config: IngestConfig) -> Iterator[Unit]:
    """The units of one row of a table: a conversation, a document, or an image with captions."""
    key = next((str(fields[name]) for name in ("id", "__key__", "key") if fields.get(name) is not None), None)
    plain = {name: value for name, value in fields.items() if isinstance(value, str | int | float | bool)}
    raw = digest(json.dumps(plain, sort_keys=True, default=str).encode())
    for content in _row_records(fields, config):
        yield Unit(row=row, key=key, content=content, raw_sha256=raw)


def _row_records(fields: Mapping[str, Any], config: IngestConfig) -> list[Record | Reject]:
    name, turns = first_filled(fields, TURN_KEYS)
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        turns = decoded_list(turns)
        if isinstance(turns, str):
            return [Reject(reason="broken_json", detail=f"column {name!r}: a list that is not valid JSON")]
    if not isinstance(turns, list):
        return parse_object({**fields, **_decoded_lists(fields)}, config)
    column, cell = image_cell({**fields, **_decoded_lists(fields)}, config)
    cells = cell if isinstance(cell, list) else [] if cell is None else [cell]
    odd = next((slot for slot, image in enumerate(references(cell)) if image is None), None)
    if odd is not None:
        detail = f"picture {odd + 1} in column {column!r} is neither bytes nor a name"
        return [Reject(reason="missing_file", detail=detail)]
    kept = {name: fields[name] for name in ("id", "license", "split", "task") if fields.get(name) is not None}
    meta = plain_meta(fields, KNOWN_KEYS | frozenset((*IMAGE_KEYS, column)))
    return [parse_record({**kept, "conversations": turns, "images": cells, "meta": meta})]


def _decoded_lists(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of images that a table without lists holds as JSON text."""
    return {name: decoded_list(fields[name]) for name in ("image", "images") if isinstance(fields.get(name), str)}


def holds_all_images(shard: IngestShard, config: IngestConfig) -> bool:
    """Whether the metadata of a Parquet file says that every row holds its images, so that none is named."""
    if config.image:
        return False
    try:
        with pq.ParquetFile(shard.file) as file:
            schema, metadata = file.schema_arrow, file.metadata
            column = next((name for name in IMAGE_KEYS if name in schema.names), None)
            if column is None or not all(_has_plain_texts(schema, name) for name in TURN_KEYS if name in schema.names):
                return False
            leaves = [
                number
                for number in range(len(file.schema))
                if file.schema.column(number).path.split(".")[0] == column
                and (
                    file.schema.column(number).path.endswith(".bytes") or pa.types.is_binary(schema.field(column).type)
                )
            ]
            return bool(leaves) and all(
                _has_no_null(metadata.row_group(group).column(leaf))
                for group in range(metadata.num_row_groups)
                for leaf in leaves
            )
    except (pa.ArrowException, OSError, ValueError, LookupError):
        return False


def _has_plain_texts(schema: Any, name: str) -> bool:
    """Whether the turns in a column have texts, not lists of parts that may name images."""
    kind = schema.field(name).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    turn = kind.value_type
    return pa.types.is_struct(turn) and all(pa.types.is_string(turn.field(n).type) for n in range(turn.num_fields))


def _has_no_null(chunk: Any) -> bool:
    """Whether no value is null or known to be empty."""
    statistics = chunk.statistics
    if statistics is None or not statistics.has_null_count or statistics.null_count:
        return False
    return not statistics.has_min_max or bool(statistics.min)
