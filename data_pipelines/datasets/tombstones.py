"""What was taken down and must not come in again: records and pictures by digest, look-alikes by perceptual hash."""

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
DIGESTS, LOOKS = "digests", "looks"  # kinds of marks in a takedown's record


@dataclass(frozen=True, kw_only=True)
class Tombstones:
    """Can be pickled; empty ones forbid nothing."""

    digests: frozenset[str] = frozenset()  # sample ids, and SHA-256 of pictures' bytes
    looks: frozenset[tuple[int, int]] = frozenset()  # perceptual hash of 64 bits, bits in which a look-alike may differ

    def __bool__(self) -> bool:
        return bool(self.digests or self.looks)

    def forbids(self, sample_id: str, images: Iterable[str]) -> bool:
        """Whether a record may not come in, by its own id or by one of its pictures."""
        return sample_id in self.digests or not self.digests.isdisjoint(images)

    def judge_look(self, phashes: Sequence[int]) -> Reject | None:
        """Says no to a picture that looks like one that was taken down."""
        for look, bits in self.looks:
            distance = min(((look ^ phash).bit_count() for phash in phashes), default=65)
            if distance <= bits:
                detail = f"looks like a picture that was taken down ({distance} of 64 bits differ)"
                return Reject(reason=TAKEN_DOWN, detail=detail)
        return None


def tombstones_from_marks(marks: Mapping[str, Iterable[str]]) -> Tombstones:
    """From the content of takedown records: digests as hexadecimal digits, looks as `<16 digits>/<bits>`."""
    looks = (mark.split("/") for mark in marks.get(LOOKS, ()))
    return Tombstones(
        digests=frozenset(marks.get(DIGESTS, ())),
        looks=frozenset((int(phash, 16), int(bits)) for phash, bits in looks),
    )


def marks_of(tombstones: Tombstones) -> dict[str, frozenset[str]]:
    """The inverse of `tombstones_from_marks`."""
    looks = frozenset(f"{phash:016x}/{bits}" for phash, bits in tombstones.looks)
    return {DIGESTS: tombstones.digests, LOOKS: looks}


def looks_of(dataset: Path, pictures: frozenset[str]) -> set[int]:
    """Perceptual hashes of some pictures, by SHA-256, from the ledgers of a dataset. Raises: DatasetError."""
    found: set[int] = set()
    wanted = pa.array(sorted(pictures), pa.string())
    for shard in CuratedDataset(dataset).shards:
        path = dataset / "ledger" / f"{shard}.parquet"
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["images", "phash"]):
                    is_readable = pc.equal(pc.list_value_length(batch["images"]), pc.list_value_length(batch["phash"]))
                    images, phashes = (pc.list_flatten(batch.filter(is_readable)[name]) for name in ("images", "phash"))
                    found.update(phashes.filter(pc.is_in(images, wanted)).to_pylist())
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error
    return found


_PICTURES = frozenset({"sha256", "images"})  # columns that name pictures


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a table has about some digests."""

    rows: int
    samples: frozenset[str]  # that these rows are about
    names_samples_only: bool  # the table names no pictures: they may be in it under ids that nobody asked for


def held(path: Path, digests: frozenset[str]) -> Held:
    """What a Parquet file of records, pictures, ledger rows, codes or scores has about samples and pictures.

    Rows that only say that something was taken down do not count.

    Raises: DatasetError if the file cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            tables = list(_rows_about(file, digests))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); run `illume verify --heal`") from error
    ids = (rows["sample_id"].to_pylist() for rows in tables if "sample_id" in names)
    return Held(
        rows=sum(rows.num_rows for rows in tables),
        samples=frozenset(chain.from_iterable(ids)),
        names_samples_only="sample_id" in names and not names & _PICTURES,
    )


def _rows_about(file: Any, digests: frozenset[str]) -> Iterator[Any]:
    wanted = pa.array(sorted(digests), pa.string())
    columns = sorted(set(file.schema_arrow.names) & ({"sample_id", "reject", "reason"} | _PICTURES))
    if not set(columns) & ({"sample_id"} | _PICTURES):
        return
    for batch in file.iter_batches(columns=columns):
        table = pa.Table.from_batches([batch])
        for column in {"reject", "reason"} & set(columns):
            table = table.filter(pc.not_equal(pc.fill_null(table[column], ""), TAKEN_DOWN))
        yield table.filter(_is_about(table, wanted))


def _is_about(table: Any, wanted: Any) -> Any:
    """A truth value for each row."""
    found = np.zeros(table.num_rows, dtype=bool)
    for column in ({"sample_id"} | _PICTURES) & set(table.column_names):
        values = table[column].combine_chunks()
        if pa.types.is_list(values.type):
            hits = pc.is_in(pc.list_flatten(values), wanted)
            found[pc.list_parent_indices(values).filter(hits).to_numpy(zero_copy_only=False)] = True
        else:
            found |= pc.is_in(values, wanted).to_numpy(zero_copy_only=False)
    return pa.array(found)
