"""The table of source formats, and the readers of two of them: Parquet files and folders of images.

No reader raises for bad content: it yields the units of a file in input order, readable or not.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.datasets.records import Record, Reject, parse_record
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.image_sources import read_regular_file
from data_pipelines.ingest.json_files import json_units
from data_pipelines.ingest.tar_files import tar_units
from data_pipelines.ingest.units import CAPTION_ENDINGS, IngestShard, Unit, caption_records, decode_json, digest

IMAGE_COLUMNS = ("image", "images", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "img",
                 "image_path", "image_file", "file_name", "filename", "path")  # fmt: skip
PARQUET_BATCH_ROWS = 64


def parquet_units(shard: IngestShard, config: IngestConfig) -> Iterator[Unit]:
    """Units of a Parquet file: captions or conversations, with images as bytes or as file names."""
    row = 0
    try:
        with pq.ParquetFile(shard.file) as file:
            stop = shard.first_row + shard.num_rows if shard.num_rows >= 0 else file.metadata.num_rows
            row = shard.first_row
            for batch in _parquet_batches(file, shard.first_row, stop):
                for fields in batch.to_pylist():
                    yield from _parquet_row(row, fields, config)
                    row += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network fails: the file is not broken
        detail = f"from row {row}: {str(error)[:200]}"
        yield Unit(row=-1, content=Reject(reason="broken_parquet", detail=detail), raw_sha256=digest(detail.encode()))


def _parquet_batches(file: Any, first: int, stop: int, columns: list[str] | None = None) -> Iterator[Any]:
    """Batches of the rows first .. stop-1; reads only the row groups that hold them. `columns` None: all."""
    start = 0
    for group in range(file.metadata.num_row_groups):
        length = file.metadata.row_group(group).num_rows
        if start + length > first and start < stop:
            batch_start = start
            for batch in file.iter_batches(PARQUET_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
                low, high = max(first - batch_start, 0), min(stop - batch_start, len(batch))
                if low < high:
                    yield batch.slice(low, high - low)
                batch_start += len(batch)
        start += length


def _parquet_row(row: int, fields: dict[str, Any], config: IngestConfig) -> Iterator[Unit]:
    column = next((name for name in IMAGE_COLUMNS if fields.get(name) is not None), None)
    value = fields.pop(column) if column else []
    cells = value if isinstance(value, list) else [value]
    images = None if cells and all(isinstance(cell, str) for cell in cells) else _parquet_images(row, cells, config)
    names = cells if images is None else list(images)
    key = next((str(fields[name]) for name in ("id", "__key__", "key") if fields.get(name) is not None), None)
    plain = {name: value for name, value in fields.items() if isinstance(value, str | int | float | bool)}
    raw = digest(json.dumps(plain, sort_keys=True, default=str).encode())
    for content in _parquet_records(fields, names, config):
        yield Unit(row=row, key=key, content=content, raw_sha256=raw, images=images)


def _parquet_images(row: int, cells: list[Any], config: IngestConfig) -> dict[str, bytes | Reject]:
    images: dict[str, bytes | Reject] = {}
    for slot, cell in enumerate(cells):
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            detail = f"row {row}: picture {slot + 1} is neither bytes nor a name"
            images[str(slot)] = Reject(reason="missing_file", detail=detail)
        elif len(data) > config.max_image_bytes:
            detail = f"row {row}: {len(data)} bytes, at most {config.max_image_bytes}"
            images[str(slot)] = Reject(reason="too_large", detail=detail)
        else:
            images[str(slot)] = data
    return images


def _parquet_records(fields: Mapping[str, Any], names: Sequence[str], config: IngestConfig) -> list[Record | Reject]:
    turns = fields.get("conversations", fields.get("messages"))
    if turns is not None:
        try:
            turns = decode_json(turns.encode()) if isinstance(turns, str) else turns
        except ValueError as error:
            return [Reject(reason="broken_json", detail=str(error)[:200])]
        kept = {name: fields[name] for name in ("id", "license", "split", "task") if fields.get(name) is not None}
        return [parse_record({**kept, "conversations": turns, "images": list(names)})]
    if not names:
        return [Reject(reason="missing_file", detail="a row without a picture and without a conversation")]
    return caption_records(None, fields, names[0], config)


def parquet_image_names(shard: IngestShard) -> set[str]:
    """Image file names that the rows of a Parquet file refer to; empty if the file cannot be read."""
    names: set[str] = set()
    try:
        with pq.ParquetFile(shard.file) as file:
            columns = [
                field.name for field in file.schema_arrow if field.name in IMAGE_COLUMNS and _holds_text(field.type)
            ]
            stop = shard.first_row + shard.num_rows if shard.num_rows >= 0 else file.metadata.num_rows
            for batch in _parquet_batches(file, shard.first_row, stop, columns) if columns else ():
                for cell in (cell for column in batch.columns for cell in column.to_pylist()):
                    names.update(filter(None, cell if isinstance(cell, list) else [cell]))
    except (pa.ArrowException, OSError, ValueError):
        return names
    return names


def _holds_text(kind: Any) -> bool:
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


# ---------------------------------------------------------------- folders of images


def captioned_image_units(shard: IngestShard, config: IngestConfig) -> Iterator[Unit]:
    """Units of a folder of images, each with its caption in a file of the same name that ends in .txt."""
    root = Path(shard.file)
    for index, name in enumerate(shard.members):
        caption: str | None = None
        problem: Reject | None = None
        for ending in CAPTION_ENDINGS:
            sidecar = (root / name).with_suffix(ending)
            if sidecar.is_file() and not sidecar.is_symlink():
                data = read_regular_file(sidecar, max_bytes=config.max_line_bytes, name=sidecar.name)
                problem = data if isinstance(data, Reject) else None
                caption = data.decode("utf-8", "replace") if isinstance(data, bytes) else None
                break
        contents = [problem] if problem else caption_records(caption, {}, name, config)
        for content in contents:
            yield Unit(
                row=shard.first_row + index,
                key=name,
                content=content,
                raw_sha256=digest(name.encode("utf-8", "replace")),
            )


def bare_image_units(shard: IngestShard, config: IngestConfig) -> Iterator[Unit]:
    """Units of a folder of images without captions: records with an empty caption, which no curation keeps."""
    for index, name in enumerate(shard.members):
        raw = digest(name.encode("utf-8", "replace"))
        for content in caption_records("", {}, name, config):
            yield Unit(row=shard.first_row + index, key=name, content=content, raw_sha256=raw)


UNIT_READERS: dict[str, Callable[[IngestShard, IngestConfig], Iterator[Unit]]] = {
    "illume": json_units,
    "webdataset": tar_units,
    "parquet": parquet_units,
    "image_caption_pairs": captioned_image_units,
    "images_only": bare_image_units,
}
