"""What was taken down and must not come in again: records and pictures by digest, look-alikes by perceptual hash."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.dataset_reader import CuratedDataset, DatasetError
from data_pipelines.records import Reject

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


def holds(path: Path, digests: frozenset[str]) -> bool:
    """Whether a Parquet file of records, pictures, ledger rows or codes has a row about one of `digests`.

    Rows that only say that something was taken down do not count.

    Raises: DatasetError if the file cannot be read.
    """
    wanted = pa.array(sorted(digests), pa.string())
    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            columns = sorted(names & {"sample_id", "sha256", "images", "reject", "reason"})
            if not names & {"sample_id", "sha256", "images"}:
                return False
            return any(_has(pa.Table.from_batches([batch]), wanted) for batch in file.iter_batches(columns=columns))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); run `illume verify --heal`") from error


def _has(table: Any, wanted: Any) -> bool:
    for column in {"reject", "reason"} & set(table.column_names):
        table = table.filter(pc.not_equal(pc.fill_null(table[column], ""), TAKEN_DOWN))
    for column in {"sample_id", "sha256", "images"} & set(table.column_names):
        values = pc.list_flatten(table[column]) if pa.types.is_list(table.schema.field(column).type) else table[column]
        if pc.any(pc.is_in(values, wanted)).as_py():
            return True
    return False
