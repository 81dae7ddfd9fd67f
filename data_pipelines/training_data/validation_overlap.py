"""What a training sees of its validation samples although it does not see the samples: their images, or near copies.

Copies are looked for by the perceptual hashes in the ledgers, over all images of all datasets. Curation has left none
inside of a dataset, but two datasets know nothing of each other.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.files import open_part
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.tombstones import entropy_of
from data_pipelines.duplicates.near_hashes import HashLookup, near_limit
from data_pipelines.training_data.ids import ids_of, is_held_out

NEAR_BITS = 10  # of 64 in which the hashes of a photograph and of a copy of it differ at most, as in curation
MAX_OVERLAPS = 1_000  # found; more say no more
SAME_IMAGE, NEAR_COPY = "same image", "near copy"
_COLUMNS = ["sample_id", "verdict", "split", "task", "images"]
_HASHES, _SCORES = "phash", "scores"  # which an older ledger may lack


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A validation sample, and a trained one that shows the same."""

    validation: str  # sample id
    trained: str  # sample id
    what: str  # SAME_IMAGE or NEAR_COPY
    dataset: str  # folder of the trained sample

    def __str__(self) -> str:
        return f"{self.validation[:16]}: {self.what} in {self.trained[:16]} of {self.dataset}"


@dataclass(frozen=True, kw_only=True)
class TrainedRows:
    """The rows of a dataset that are trained on."""

    dataset: CuratedDataset
    split: str
    tasks: Collection[str] | None  # None: all
    held_out_share: float = 0.0

    def tables(self) -> Iterator[Any]:
        for shard in self.dataset.shards:
            table = _read(self.dataset, shard, _HASHES)
            chosen = pc.and_(pc.equal(table["verdict"], "keep"), pc.equal(table["split"], self.split))
            if self.tasks is not None:
                chosen = pc.and_(chosen, pc.is_in(table["task"], pa.array(sorted(self.tasks), pa.string())))
            table = table.filter(chosen)
            if self.held_out_share and len(table):
                first = [images[0] if images else "" for images in table["images"].to_pylist()]
                is_out = is_held_out(ids_of(table["sample_id"].to_pylist()), first, self.held_out_share)
                table = table.filter(pa.array(~is_out))
            yield table


class ValidationImages:
    """The images of some validation samples."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}  # SHA-256 of an image -> sample id
        self._hashes: list[int] = []
        self._limits: list[int] = []  # bits in which a near copy of each differs at most
        self._hash_owners: list[str] = []

    def add_samples(self, dataset: CuratedDataset, shard: str, sample_ids: Collection[str]) -> None:
        """Add the images of some samples of a shard. Raises: DatasetError: its ledger cannot be read."""
        table = _read(dataset, shard, _HASHES, _SCORES)
        self._add(table.filter(pc.is_in(table["sample_id"], pa.array(sorted(sample_ids), pa.string()))))

    def add_images(self, dataset: CuratedDataset, shard: str, images: Collection[str], *, split: str) -> None:
        """The same of the samples of a split whose first image (SHA-256) is one of these."""
        table = _read(dataset, shard, _HASHES, _SCORES)
        table = table.filter(pc.and_(pc.equal(table["split"], split), pc.greater(_count(table), 0)))
        first = pc.list_element(table["images"], 0)
        self._add(table.filter(pc.is_in(first, pa.array(sorted(images), pa.string()))))

    def _add(self, table: Any) -> None:
        for row in table.to_pylist():
            self._owners.update(dict.fromkeys(row["images"] or (), row["sample_id"]))
            entropy = entropy_of(row.get(_SCORES))
            for phash in row.get(_HASHES) or ():
                self._hashes.append(phash)
                self._limits.append(near_limit(phash, NEAR_BITS, entropy))
                self._hash_owners.append(row["sample_id"])

    def overlaps(self, trained: Iterable[TrainedRows]) -> list[Overlap]:
        """At most `MAX_OVERLAPS`; of each pair of samples the strongest. Raises: DatasetError."""
        lookup = HashLookup(np.array(self._hashes, dtype=np.uint64), NEAR_BITS) if self._hashes else None
        found = (
            Overlap(validation=validation, trained=seen, what=what, dataset=str(rows.dataset.folder))
            for rows in trained
            for table in rows.tables()
            for (validation, seen), what in self._pairs(table, lookup).items()
        )
        return list(islice(found, MAX_OVERLAPS))

    def _pairs(self, table: Any, lookup: HashLookup | None) -> dict[tuple[str, str], str]:
        ids, pairs = table["sample_id"].to_pylist() if len(table) else [], dict[tuple[str, str], str]()
        rows, hashes = _flat(table, _HASHES) if lookup and _HASHES in table.column_names else ([], None)
        if lookup is not None and hashes is not None and len(hashes):
            near = lookup.near(hashes)
            for at, known, bits in zip(
                near.positions.tolist(), near.known.tolist(), near.distances.tolist(), strict=True
            ):
                if bits <= self._limits[known]:
                    pairs[self._hash_owners[known], ids[rows[at]]] = NEAR_COPY
        if self._owners and len(table):
            images = pc.list_flatten(table["images"])
            parents = pc.list_parent_indices(table["images"])
            same = pc.is_in(images, pa.array(list(self._owners), pa.string()))
            for row, image in zip(parents.filter(same).to_pylist(), images.filter(same).to_pylist(), strict=True):
                pairs[self._owners[image], ids[row]] = SAME_IMAGE
        return {pair: what for pair, what in pairs.items() if pair[0] != pair[1]}


def _count(table: Any) -> Any:
    """Images of each row."""
    return pc.fill_null(pc.list_value_length(table["images"]), 0)


def _flat(table: Any, column: str) -> tuple[Sequence[int], npt.NDArray[np.uint64]]:
    """(row of each value, values) of a column of lists."""
    values = pc.list_flatten(table[column]).to_numpy().astype(np.uint64)
    return pc.list_parent_indices(table[column]).to_pylist(), values


def _read(dataset: CuratedDataset, shard: str, *optional: str) -> Any:
    path = f"ledger/{shard}.parquet"
    try:
        with open_part(dataset.folder, path) as opened, pq.ParquetFile(opened) as file:
            names = [name for name in optional if name in file.schema_arrow.names]
            return file.read(columns=[*_COLUMNS, *names], use_threads=False).combine_chunks()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DatasetError(f"{dataset.folder / path}: not a ledger that can be read ({error}); curate again") from error
