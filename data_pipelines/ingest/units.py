"""The units that every format reader yields, one per record of a source file, readable or not."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol

from data_pipelines.archives.compressed_files import decode_text
from data_pipelines.datasets.records import Record, Reject
from data_pipelines.ingest.config import IngestConfig

IMAGE_ENDINGS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".apng", ".dib", ".tga", ".dds",
    ".pcx", ".icns", ".ico", ".qoi", ".sgi",
))  # fmt: skip
CAPTION_ENDINGS = (".txt", ".caption", ".text")
SIDECAR_SPELLINGS = 4  # of the name of the file of words beside an image
MAX_JSON_DEPTH = 100


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One record of a source file, or why it cannot be read.

    `row`: its line, row or member group, from 0; -1: the file itself.
    """

    row: int
    content: Record | Reject
    key: str | None = None  # name in the source, for records without an id of their own
    raw_sha256: str = ""
    images: Mapping[str, bytes | Reject] | None = None  # by name: all that it may use; None: read by name from files
    note: str = ""  # remark on a record that is accepted


@dataclass(frozen=True, kw_only=True)
class IngestShard:
    """A part of the input with a stable name: a file, a range of its bytes or rows, or a list of images."""

    name: str
    file: str  # path of the source file, or of the folder for images
    source_file: str  # the file as shown in the ledger; does not depend on where the data lies
    format: str  # a key of `formats.UNIT_READERS`
    first_row: int = 0
    num_rows: int = -1  # -1: to the end
    start_byte: int = 0
    stop_byte: int = -1  # -1: to the end
    members: tuple[str, ...] = field(default_factory=tuple)  # images below the folder
    shared: tuple[str, ...] = ()  # members whose words beside them may be those of another image: 1.jpg and 1.png
    folder: str = ""  # below which the file was found; images that no other place has are looked for here


UnitReader = Callable[["IngestShard", IngestConfig, "OtherFiles"], Iterator[Unit]]


class OtherFiles(Protocol):
    """The files beside a shard's own that its reader may open; each one is counted in the shard's identity."""

    def read(self, name: str) -> bytes | Reject: ...


def sidecar_name(image: str, ending: str, spelling: int = 0) -> str:
    """The name of the file beside an image, in one of `SIDECAR_SPELLINGS`: 1.txt, 1.png.txt, 1.TXT, 1.png.TXT.

    The first and third may also belong to an image of another ending.
    """
    ending = ending.upper() if spelling >= 2 else ending
    return f"{image}{ending}" if spelling % 2 else str(PurePosixPath(image).with_suffix(ending))


def decode_json(data: bytes) -> Any:
    """The JSON value, in UTF-8, 16 or 32. Bytes that are not valid become U+FFFD, which the caption checks
    notice later.

    Raises: ValueError for anything that is not exactly one strict JSON value of moderate depth, and for a key twice.
    """
    try:
        value = json.loads(decode_text(data), parse_constant=_no_constant, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if _deeper_than(value, MAX_JSON_DEPTH):
        raise ValueError(f"nested more than {MAX_JSON_DEPTH} levels deep")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. A key twice with two values has none: which is meant is not known."""
    value = dict(pairs)
    if len(value) < len(pairs):
        for key, held in pairs:
            if held != value[key]:
                raise ValueError(f"the key {key[:100]!r} stands twice, with two values")
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
