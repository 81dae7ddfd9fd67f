"""Measures ingested records: all that costs time and depends on no threshold, so that it is done once.

What is measured of a shard depends on its records, its pictures and the limits of decoding only.
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

from data_pipelines.captions.extraction import caption_of
from data_pipelines.captions.languages import language_of
from data_pipelines.datasets.ingested_reader import ShardImages, shard_rows
from data_pipelines.datasets.records import Reject, canonical, turns_from_text
from data_pipelines.images.decoding import Picture, Size, look_at
from data_pipelines.images.facts import Glimpse, ImageFacts, glimpse, measured, measured_share
from data_pipelines.images.limits import DecodeLimits, StoredSize
from data_pipelines.images.resizing import SmallerWriter, needed_share, stored_smaller

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
PICTURES_AT_ONCE = 64


def measure_shard(
    records: Path,
    name: str,
    output: Path,
    limits: DecodeLimits,
    *,
    stored: StoredSize | None = None,
    rows: Collection[int] | None = None,
) -> dict[str, int]:
    """Write `measured/NAME.parquet` below `output`: facts of every picture and the language of every caption.

    `stored`: pictures larger than this are made smaller while they are decoded, into `smaller/`.
    `rows`: only these (the others were found to kill their process); they are missing in the file and later dropped.
    """
    columns = ["sample_id", "task", "conversations", "reject", "images"]
    known = enumerate(shard_rows(records / "records" / f"{name}.parquet", columns))
    chosen = {row: record for row, record in known if rows is None or row in rows}
    languages = [_language(record) for record in chosen.values()]  # one after the other, while the model is at hand
    counts: Counter[str] = Counter()
    with ExitStack() as files:
        pictures_of = _Measuring(
            images=files.enter_context(ShardImages(records, name)),
            limits=limits,
            stored=stored,
            smaller=files.enter_context(SmallerWriter(output, name)) if stored else None,
        )
        digests = dict.fromkeys(digest for record in chosen.values() for digest in record["images"])
        pictures = dict(pictures_of.pictures(list(digests)))
    found = []
    for (row, record), language in zip(chosen.items(), languages, strict=True):
        shown = [pictures[digest] for digest in record["images"]]
        kept = {key: record[key] for key in ("sample_id", "reject", "images")}
        found.append({"row": row, **kept, "language": language, "pictures": shown})
        counts.update(rows=1, pictures=len(shown), unreadable=sum(bool(one.get("reason")) for one in shown))
    path = output / "measured" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(found, schema=MEASURED_SCHEMA), path, compression="zstd")
    return dict(counts)


def _language(record: Mapping[str, Any]) -> str:
    return language_of(caption_of(record["task"], turns_from_text(record["conversations"])))


@dataclass(frozen=True, kw_only=True)
class _Measuring:
    """Looks at the pictures of a shard."""

    images: ShardImages
    limits: DecodeLimits
    stored: StoredSize | None
    smaller: SmallerWriter | None

    def pictures(self, digests: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """A `PICTURE` for each SHA-256; some are decoded, then measured, which keeps a core's caches warm."""
        for first in range(0, len(digests), PICTURES_AT_ONCE):
            some = digests[first : first + PICTURES_AT_ONCE]
            for digest, (size, seen) in zip(some, [self._seen(digest) for digest in some], strict=True):
                read = functools.partial(self.images.read, digest)
                found = measured(seen, read, self.limits) if isinstance(seen, Glimpse) else seen
                fields = {**vars(found), "bytes": size}
                if isinstance(found, ImageFacts):
                    fields["scores"] = canonical(dict(found.scores))
                yield digest, fields

    def _seen(self, digest: str) -> tuple[int, Glimpse | Reject]:
        """Bytes of the file, and what was seen of it; what is stored instead is made of the same decoding."""
        data, stored = self.images.read(digest), self.stored

        def look(picture: Picture) -> Glimpse:
            seen = glimpse(picture)
            small = stored_smaller(picture, stored) if stored else None
            if small is not None and self.smaller is not None:
                self.smaller.add(digest, small)
            return seen

        def share(size: Size) -> float:
            return max(measured_share(size), needed_share(size, stored) if stored else 0.0)

        return len(data), look_at(data, self.limits, look, enough=share)


def measured_facts(picture: Mapping[str, Any]) -> ImageFacts | Reject:
    """What was measured of a `PICTURE`, its scores as the text they were written as."""
    if picture["reason"] is not None:
        return Reject(reason=picture["reason"], detail=picture["detail"])
    fields = {key: value for key, value in picture.items() if key not in ("reason", "detail", "bytes")}
    return ImageFacts(**{**fields, "scores": json.loads(fields["scores"])})
