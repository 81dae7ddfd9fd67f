"""What every format takes its raw files apart into: units, one for each record that was meant."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_pipelines.datasets.records import Record, Reject, caption_record
from data_pipelines.ingest.config import IngestConfig

IMAGE_ENDINGS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".avif", ".heic", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm",
))  # fmt: skip
CAPTION_ENDINGS = (".txt", ".caption", ".text")
CAPTION_COLUMNS = ("caption", "text", "prompt", "txt", "sentence", "description")
MAX_JSON_DEPTH = 100


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One thing that was meant as a record. `row` is its line, row or member group from 0; -1: the file itself."""

    row: int
    content: Record | Reject
    key: str | None = None  # what the source calls it, where the record has no id of its own
    raw_sha256: str = ""
    images: Mapping[str, bytes | Reject] | None = None  # by name; None: to be looked up in the image source
    note: str = ""  # something that a person should know although the record is taken


@dataclass(frozen=True, kw_only=True)
class IngestShard:
    """A part of the input with a stable name: a file, a range of its bytes or rows, or a list of pictures."""

    name: str
    file: str  # path of the source file, or of the folder for pictures
    source_file: str  # the same as the ledger shows it, independent of where the data lies
    format: str  # a key of `ingest_formats.UNITS`
    first_row: int = 0
    num_rows: int = -1  # -1: to the end
    start_byte: int = 0
    stop_byte: int = -1  # -1: to the end
    members: tuple[str, ...] = field(default_factory=tuple)  # pictures below the folder


def decode_json(data: bytes) -> Any:
    """One JSON value. Bytes that are not UTF-8 become U+FFFD, which the caption checks notice later.

    Raises: ValueError for anything that is not exactly one strict JSON value of moderate depth.
    """
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if _deeper_than(value, MAX_JSON_DEPTH):
        raise ValueError(f"nested more than {MAX_JSON_DEPTH} levels deep")
    return value


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _deeper_than(value: object, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            child
            for parent in layer
            if isinstance(parent, list | dict)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, list | dict)
        ]
        if not layer:
            return False
    return True


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def captioned(
    caption: str | None, fields: Mapping[str, Any], image_name: str, config: IngestConfig
) -> list[Record | Reject]:
    if caption is None:
        stated = next((fields[key] for key in CAPTION_COLUMNS if isinstance(fields.get(key), str)), None)
        caption = stated
    if caption is None:
        return [Reject(reason="caption_missing", detail=f"the picture {image_name[:200]!r} has no text")]
    return [caption_record(caption.rstrip("\r\n"), image_name, task, fields) for task in config.caption_tasks]
