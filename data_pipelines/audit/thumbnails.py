"""Small images of records by verdict and reason, for pages about a dataset: a view, derived when a page is written.

Images of kept records lie in the dataset; those of all others only in the ingested records that it was made from.
Where these are gone, the view lacks the images. The choice of records never changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.datasets.ingested_reader import ShardImages, record_shards, shard_rows
from data_pipelines.datasets.ledgers import with_new_reasons
from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.images.resizing import thumbnail

RECORDS_PER_REASON = 6  # of each verdict and reason in each shard
SIDE = 128  # pixels
MAX_SHARDS = 32  # whose images are read, spread evenly over the dataset
IMAGES_PER_RECORD = 2
QUARANTINED = "quarantined"  # such images may have killed the process that decoded them, so they are never shown
FIELDS = ("sample_id", "verdict", "reason", "caption", "duplicate_of")
SCHEMA = pa.schema(
    [*((name, pa.string()) for name in FIELDS), ("slot", pa.int16()), ("jpeg", pa.binary())]  # null: not decodable
)


@dataclass(kw_only=True)
class _Choice:
    """The rows of each verdict and reason with the lowest digests: a random choice that never changes."""

    chosen: dict[tuple[str, str], list[tuple[str, int]]] = field(default_factory=dict)

    def offer(self, row: Mapping[str, Any], index: int) -> None:
        if not row["images"] or row["reason"] == QUARANTINED:
            return
        rank = sha256(f"thumbnail/{row['sample_id']}/{index}".encode()).hexdigest()
        group = self.chosen.setdefault((row["verdict"], row["reason"] or ""), [])
        group.append((rank, index))
        group.sort()
        del group[RECORDS_PER_REASON:]


def shown_shards(dataset: CuratedDataset) -> list[str]:
    """The shards whose images are read: at most `MAX_SHARDS`, spread evenly."""
    count = min(MAX_SHARDS, len(dataset.shards))
    return [dataset.shards[number * len(dataset.shards) // count] for number in range(count)]


def derive_thumbnails(folder: Path, records: Sequence[Path], target: Path) -> None:
    """Write `<shard>.parquet` to `target` for the shards whose ingested images are in one of the folders `records`."""
    dataset = CuratedDataset(folder)
    owners = {name: path for path in records for name in record_shards(path)}
    target.mkdir(parents=True, exist_ok=True)
    for shard in shown_shards(dataset):
        if shard in owners and (owners[shard] / "images" / f"{shard}.tar").is_file():
            with ShardImages(owners[shard], shard) as images:
                rows = _rows(folder / "ledger" / f"{shard}.parquet", images)
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), target / f"{shard}.parquet", compression="zstd")


def _rows(ledger: Path, images: ShardImages) -> list[dict[str, Any]]:
    choice, rows = _Choice(), []
    for index, row in enumerate(shard_rows(ledger, [*FIELDS, "images"])):
        choice.offer(row, index)
        rows.append(row)
    return [
        {**{name: rows[index][name] for name in FIELDS}, "slot": slot, "jpeg": _small(images, digest)}
        for group in sorted(choice.chosen)
        for _, index in choice.chosen[group]
        for slot, digest in enumerate(rows[index]["images"][:IMAGES_PER_RECORD])
    ]


def _small(images: ShardImages, digest: str) -> bytes | None:
    return thumbnail(images.read(digest), SIDE, DecodeLimits())


def read_thumbnails(dataset: CuratedDataset, shard: str, columns: Sequence[str]) -> Any:
    """The thumbnails of a shard as a table without rows if there are none.

    Raises: OSError, ArrowException: the file is damaged.
    """
    path = dataset.thumbnails / f"{shard}.parquet"
    if not path.is_file():
        return SCHEMA.empty_table().select(list(columns))
    return with_new_reasons(pq.read_table(path, columns=list(columns), use_threads=False))
