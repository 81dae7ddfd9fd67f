"""Tombstones: what was taken down and must not be ingested again, and the search for rows about it.

Records and images are known by digest, similar images by perceptual hash.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.records import Reject

TAKEN_DOWN = "taken_down"  # the reason in every ledger
DIGEST_MARKS, PHASH_MARKS = "digests", "looks"  # keys of the marks in a takedown's record


@dataclass(frozen=True, kw_only=True)
class Tombstones:
    """What was taken down; empty tombstones forbid nothing. Can be pickled."""

    digests: frozenset[str] = frozenset()  # sample ids, and SHA-256 of images' bytes
    phashes: frozenset[tuple[int, int]] = frozenset()  # 64-bit perceptual hash, bits in which similar images may differ

    def __bool__(self) -> bool:
        return bool(self.digests or self.phashes)

    def forbids(self, sample_id: str, images: Iterable[str]) -> bool:
        """Whether a record, or one of its images (by SHA-256), was taken down."""
        return sample_id in self.digests or not self.digests.isdisjoint(images)

    def judge_phashes(self, phashes: Sequence[int]) -> Reject | None:
        """A reject if one of the perceptual hashes is near that of an image that was taken down."""
        for taken_down, bits in self.phashes:
            distance = min(((taken_down ^ phash).bit_count() for phash in phashes), default=65)
            if distance <= bits:
                detail = f"looks like a picture that was taken down ({distance} of 64 bits differ)"
                return Reject(reason=TAKEN_DOWN, detail=detail)
        return None


def marks_to_tombstones(marks: Mapping[str, Iterable[str]]) -> Tombstones:
    """The tombstones in takedown records: digests as hexadecimal digits, hashes as `<16 digits>/<bits>`."""
    phashes = (mark.split("/") for mark in marks.get(PHASH_MARKS, ()))
    return Tombstones(
        digests=frozenset(marks.get(DIGEST_MARKS, ())),
        phashes=frozenset((int(phash, 16), int(bits)) for phash, bits in phashes),
    )


def tombstones_to_marks(tombstones: Tombstones) -> dict[str, frozenset[str]]:
    """The inverse of `marks_to_tombstones`."""
    phashes = frozenset(f"{phash:016x}/{bits}" for phash, bits in tombstones.phashes)
    return {DIGEST_MARKS: tombstones.digests, PHASH_MARKS: phashes}


def entropy_of(scores: str | None) -> float | None:
    """The bits of the grey histogram of a row's first image, from the JSON of its scores."""
    found = json.loads(scores or "{}").get("entropy")
    return float(found) if isinstance(found, int | float) else None


def image_phashes(dataset: Path, digests: frozenset[str]) -> dict[int, float | None]:
    """The perceptual hashes of the images with these SHA-256, from a dataset's ledgers, each with its entropy if known.

    Raises: DatasetError.
    """
    found: dict[int, float | None] = {}
    wanted = pa.array(sorted(digests), pa.string())
    for shard in CuratedDataset(dataset).shards:
        path = dataset / "ledger" / f"{shard}.parquet"
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["images", "phash", "scores"]):
                    is_readable = pc.equal(pc.list_value_length(batch["images"]), pc.list_value_length(batch["phash"]))
                    rows = batch.filter(is_readable)
                    images, phashes = (pc.list_flatten(rows[name]) for name in ("images", "phash"))
                    chosen = pc.is_in(images, wanted)
                    owners = pc.list_parent_indices(rows["images"]).filter(chosen)
                    scores = rows["scores"].take(owners).to_pylist()
                    found.update(zip(phashes.filter(chosen).to_pylist(), map(entropy_of, scores), strict=True))
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error
    return found


_IMAGE_COLUMNS = frozenset({"sha256", "images"})  # columns that name images


@dataclass(frozen=True, kw_only=True)
class HeldRows:
    """The rows of a table that are about some digests."""

    rows: int
    samples: frozenset[str]  # that these rows are about
    names_samples_only: bool  # the table names no images, so images may be in it under other sample ids


def find_held_rows(path: Path, digests: frozenset[str]) -> HeldRows:
    """The rows of a Parquet file (records, images, ledger rows, codes or scores) that are about samples or images.

    `digests`: sample ids, and SHA-256 of images. Rows that only record a takedown do not count.

    Raises: DatasetError if the file cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            tables = list(_matching_rows(file, digests))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); run `illume verify --heal`") from error
    ids = (rows["sample_id"].to_pylist() for rows in tables if "sample_id" in names)
    return HeldRows(
        rows=sum(rows.num_rows for rows in tables),
        samples=frozenset(chain.from_iterable(ids)),
        names_samples_only="sample_id" in names and not names & _IMAGE_COLUMNS,
    )


def _matching_rows(file: Any, digests: frozenset[str]) -> Iterator[Any]:
    wanted = pa.array(sorted(digests), pa.string())
    columns = sorted(set(file.schema_arrow.names) & ({"sample_id", "reject", "reason"} | _IMAGE_COLUMNS))
    if not set(columns) & ({"sample_id"} | _IMAGE_COLUMNS):
        return
    for batch in file.iter_batches(columns=columns):
        table = pa.Table.from_batches([batch])
        for column in {"reject", "reason"} & set(columns):
            table = table.filter(pc.not_equal(pc.fill_null(table[column], ""), TAKEN_DOWN))
        yield table.filter(_matches(table, wanted))


def _matches(table: Any, wanted: Any) -> Any:
    """For each row whether it names a wanted digest."""
    found = np.zeros(table.num_rows, dtype=bool)
    for column in ({"sample_id"} | _IMAGE_COLUMNS) & set(table.column_names):
        values = table[column].combine_chunks()
        if pa.types.is_list(values.type):
            hits = pc.is_in(pc.list_flatten(values), wanted)
            found[pc.list_parent_indices(values).filter(hits).to_numpy(zero_copy_only=False)] = True
        else:
            found |= pc.is_in(values, wanted).to_numpy(zero_copy_only=False)
    return pa.array(found)
