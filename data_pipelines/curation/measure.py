"""Measures ingested records: everything that costs time and depends on no threshold, so that it is done once.

The measurements of a shard depend only on its records, its images and the limits of decoding.
"""

import functools
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.captions.extraction import extract_caption
from data_pipelines.captions.languages import detect_language
from data_pipelines.datasets.ingested_reader import ShardImages, records_path, shard_rows
from data_pipelines.datasets.records import Reject, canonical, json_to_turns
from data_pipelines.images.decoding import DecodedImage, Size, decode_within
from data_pipelines.images.facts import ImageFacts, ReducedImage, measure_reduced, measurement_share, reduce_image
from data_pipelines.images.limits import DecodeLimits, StoredSize
from data_pipelines.images.resizing import ResizedImageWriter, resize_for_storage, storage_share

MEASUREMENT = pa.struct(
    [
        ("reason", pa.string()),  # why the image cannot be read; null: it is readable and measured
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
        ("reject", pa.string()),  # the reason that ingest gave
        ("images", pa.list_(pa.string())),
        ("language", pa.string()),  # of the caption: ISO 639-1 or "und"
        ("measured_images", pa.list_(MEASUREMENT)),  # one for each image
    ]
)
IMAGES_AT_ONCE = 64


def measure_shard(
    records: Path,
    name: str,
    output: Path,
    limits: DecodeLimits,
    *,
    stored: StoredSize | None = None,
    rows: Collection[int] | None = None,
) -> dict[str, int]:
    """Write `measured/NAME.parquet` below `output`: measurements of every image and the language of every caption.

    `stored`: images larger than this are also resized and written to `smaller/` below `output`.
    `rows`: measure only these. The others killed their process; they are missing in the file and later dropped.
    Returns counts of rows, images and unreadable images.
    """
    columns = ["sample_id", "task", "conversations", "reject", "images"]
    all_records = enumerate(shard_rows(records_path(records, name), columns))
    chosen = {row: record for row, record in all_records if rows is None or row in rows}
    languages = [_language(record) for record in chosen.values()]  # in one pass, while the model is in the caches
    counts: Counter[str] = Counter()
    with ExitStack() as files:
        measurer = _ImageMeasurer(
            images=files.enter_context(ShardImages(records, name)),
            limits=limits,
            stored=stored,
            resized=files.enter_context(ResizedImageWriter(output, name)) if stored else None,
        )
        digests = dict.fromkeys(digest for record in chosen.values() for digest in record["images"])
        by_digest = dict(measurer.measurements(list(digests)))
    measured = []
    for (row, record), language in zip(chosen.items(), languages, strict=True):
        images = [by_digest[digest] for digest in record["images"]]
        kept = {key: record[key] for key in ("sample_id", "reject", "images")}
        measured.append({"row": row, **kept, "language": language, "measured_images": images})
        num_unreadable = sum(bool(image.get("reason")) for image in images)
        counts.update({"rows": 1, "images": len(images), "unreadable": num_unreadable})
    path = output / "measured" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(measured, schema=MEASURED_SCHEMA), path, compression="zstd")
    return dict(counts)


def _language(record: Mapping[str, Any]) -> str:
    return detect_language(extract_caption(record["task"], json_to_turns(record["conversations"])))


@dataclass(frozen=True, kw_only=True)
class _ImageMeasurer:
    """Measures the images of a shard, and resizes those that are stored smaller."""

    images: ShardImages
    limits: DecodeLimits
    stored: StoredSize | None
    resized: ResizedImageWriter | None

    def measurements(self, digests: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The fields of `MEASUREMENT` for each SHA-256.

        Images are decoded, then measured, `IMAGES_AT_ONCE` at a time, which keeps a core's caches warm.
        """
        for first in range(0, len(digests), IMAGES_AT_ONCE):
            batch = digests[first : first + IMAGES_AT_ONCE]
            for digest, (num_bytes, reduced) in zip(batch, [self._decode(digest) for digest in batch], strict=True):
                read = functools.partial(self.images.read, digest)
                result = measure_reduced(reduced, read, self.limits) if isinstance(reduced, ReducedImage) else reduced
                fields = {**vars(result), "bytes": num_bytes}
                if isinstance(result, ImageFacts):
                    fields["scores"] = canonical(dict(result.scores))
                yield digest, fields

    def _decode(self, digest: str) -> tuple[int, ReducedImage | Reject]:
        """The size of the file in bytes, and its reduced image. A resized image is written from the same decoding."""
        data, stored = self.images.read(digest), self.stored

        def convert(decoded: DecodedImage) -> ReducedImage:
            reduced = reduce_image(decoded)
            resized = resize_for_storage(decoded, stored) if stored else None
            if resized is not None and self.resized is not None:
                self.resized.add(digest, resized)
            return reduced

        def share(size: Size) -> float:
            return max(measurement_share(size), storage_share(size, stored) if stored else 0.0)

        return len(data), decode_within(data, self.limits, convert, needed_share=share)


def read_measurement(fields: Mapping[str, Any]) -> ImageFacts | Reject:
    """The measurements in the fields of a `MEASUREMENT`, with its scores decoded, or why the image cannot be read."""
    if fields["reason"] is not None:
        return Reject(reason=fields["reason"], detail=fields["detail"])
    facts = {key: value for key, value in fields.items() if key not in ("reason", "detail", "bytes")}
    return ImageFacts(**{**facts, "scores": json.loads(facts["scores"])})
