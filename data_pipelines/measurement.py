"""Measures ingested records: all that costs time and depends on no threshold, so that it is done once.

What is measured of a shard depends on its records, its pictures and the limits of decoding only.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.captions import caption_of
from data_pipelines.curation_config import DecodeLimits
from data_pipelines.images import ImageFacts, inspect
from data_pipelines.languages import language_of
from data_pipelines.records import Reject, canonical, turns_from_text

PICTURE = pa.struct(
    [
        ("reason", pa.string()),  # why it cannot be read; null: it can, and the rest is known
        ("detail", pa.string()),
        ("bytes", pa.int64()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("phash", pa.uint64()),
        ("mirrored_phash", pa.uint64()),  # with left and right swapped
        ("pixel_digest", pa.string()),
        ("miniature", pa.binary(192)),
        ("scores", pa.string()),
        ("opt_out", pa.string()),
    ]
)
MEASURED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # in the records file
        ("sample_id", pa.string()),
        ("reject", pa.string()),  # what ingest said
        ("images", pa.list_(pa.string())),
        ("language", pa.string()),  # of the caption: ISO 639-1 or "und"
        ("pictures", pa.list_(PICTURE)),  # one for each image
    ]
)
MAX_CACHED_FACTS = 4096  # pictures of one shard whose facts are kept for further records


class ShardImages:
    """The pictures of one ingested shard by SHA-256."""

    def __init__(self, records: Path, name: str) -> None:
        index = pq.read_table(records / "index" / f"{name}.parquet")
        self._places = {
            digest: (offset, size)
            for digest, offset, size in zip(
                index["sha256"].to_pylist(), index["offset"].to_pylist(), index["bytes"].to_pylist(), strict=True
            )
        }
        self._file = (records / "images" / f"{name}.tar").open("rb")

    def __enter__(self) -> "ShardImages":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, digest: str) -> bytes:
        offset, size = self._places[digest]
        self._file.seek(offset)
        return self._file.read(size)


def record_shards(records: Path) -> list[str]:
    """Names of the shards of an ingested folder, in order."""
    return sorted(path.stem for path in (records / "records").glob("*.parquet"))


def table_rows(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def measure_shard(
    records: Path, name: str, output: Path, limits: DecodeLimits, *, rows: Collection[int] | None = None
) -> dict[str, int]:
    """Write `measured/NAME.parquet` below `output`: facts of every picture and the language of every caption.

    `rows`: only these (the others were found to kill their process); they are missing in the file and later dropped.
    """
    columns = ["sample_id", "task", "conversations", "reject", "images"]
    table = pq.read_table(records / "records" / f"{name}.parquet", columns=columns)
    counts: Counter[str] = Counter()
    measured = []
    with ShardImages(records, name) as images:
        seen: dict[str, dict[str, Any]] = {}
        for row, record in enumerate(table_rows(table)):
            if rows is not None and row not in rows:
                continue
            pictures = [_measured_picture(digest, images, seen, limits) for digest in record["images"]]
            language = language_of(caption_of(record["task"], turns_from_text(record["conversations"])))
            kept = {key: record[key] for key in ("sample_id", "reject", "images")}
            measured.append({"row": row, **kept, "language": language, "pictures": pictures})
            counts.update(rows=1, pictures=len(pictures), unreadable=sum(bool(one.get("reason")) for one in pictures))
    path = output / "measured" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(measured, schema=MEASURED_SCHEMA), path, compression="zstd")
    return dict(counts)


def _measured_picture(
    digest: str, images: ShardImages, seen: dict[str, dict[str, Any]], limits: DecodeLimits
) -> dict[str, Any]:
    """A `PICTURE`, from `seen` where many records share it."""
    if digest in seen:
        return seen[digest]
    data = images.read(digest)
    found = inspect(data, limits)
    measured = {**vars(found), "bytes": len(data)}
    if isinstance(found, ImageFacts):
        measured["scores"] = canonical(dict(found.scores))
    if len(seen) < MAX_CACHED_FACTS:
        seen[digest] = measured
    return measured


def measured_facts(picture: Mapping[str, Any]) -> ImageFacts | Reject:
    """What was measured of a `PICTURE`, its scores as the text they were written as."""
    if picture["reason"] is not None:
        return Reject(reason=picture["reason"], detail=picture["detail"])
    fields = {key: value for key, value in picture.items() if key not in ("reason", "detail", "bytes")}
    return ImageFacts(**{**fields, "scores": json.loads(fields["scores"])})
