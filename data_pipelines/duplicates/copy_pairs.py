"""The search for near and mirrored images in tasks that other processes can run, and files of the pairs they find.

A task finds pairs of hash values, not of samples, so its result depends only on the hashes and the distance.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.duplicates.near_hashes import Hashes, Pairs, SearchTask, SortedHashes, task_pairs

PAIRS_SCHEMA = pa.schema([("hash", pa.uint64()), ("other", pa.uint64())])
SEARCHES = ("within", "between")  # among the hashes; between them and the hashes of mirrored images
ValuePairs = Hashes  # [N, 2]


def first_hashes(analyses: Iterable[Path]) -> tuple[Hashes, Hashes]:
    """The hashes, and the mirrored hashes, of the first images of all records not yet dropped; sorted, each once."""
    columns: dict[str, list[Hashes]] = {"phash": [], "mirrored_phash": []}
    for path in analyses:
        table = pq.read_table(path, columns=["reason", *columns])
        has_image = pc.greater(pc.list_value_length(table["phash"]), 0)
        candidates = table.filter(pc.and_(pc.is_null(table["reason"]), has_image))
        for name, found in columns.items():
            found.append(np.asarray(pc.list_element(candidates[name], 0), dtype=np.uint64))
    plain, mirrored = (np.unique(np.concatenate([np.zeros(0, np.uint64), *found])) for found in columns.values())
    return plain, mirrored


def write_pairs(
    hashes: tuple[SortedHashes, SortedHashes], search: str, task: SearchTask, distance: int, output: Path
) -> int:
    """Write the pairs that one task of a search (one of `SEARCHES`) finds as a Parquet file. Returns their number.

    `hashes`: see `first_hashes`.
    """
    plain, mirrored = hashes
    others = plain if search == "within" else mirrored
    found = task_pairs(plain, others, task, distance)
    values = [
        np.stack([plain.hashes[pairs[:, 0]], others.hashes[pairs[:, 1]]], axis=1) for pairs in found if len(pairs)
    ]
    unique = np.unique(np.concatenate([np.zeros((0, 2), np.uint64), *values]), axis=0)
    columns = [pa.array(np.ascontiguousarray(unique[:, side])) for side in range(2)]
    pq.write_table(pa.table(columns, schema=PAIRS_SCHEMA), output, compression="zstd")
    return len(unique)


def read_pairs(paths: Iterable[Path]) -> ValuePairs:
    """The pairs that several tasks found, each once."""
    found = [np.zeros((0, 2), np.uint64)]
    for path in paths:
        table = pq.read_table(path)
        found.append(np.stack([np.asarray(table[name], dtype=np.uint64) for name in PAIRS_SCHEMA.names], axis=1))
    return np.unique(np.concatenate(found), axis=0)


@dataclass(frozen=True, kw_only=True)
class PrecomputedPairs:
    """A `PairSearch` that returns pairs of an earlier search over the same hashes and distance."""

    pairs_within: ValuePairs
    pairs_between: ValuePairs

    def within(self, hashes: Hashes, salts: Hashes, distance: int) -> Iterator[Pairs]:
        return _pairs_of_positions(self.pairs_within, _HashPositions(hashes, salts), _HashPositions(hashes, salts))

    def between(
        self, hashes: Hashes, salts: Hashes, others: Hashes, other_salts: Hashes, distance: int
    ) -> Iterator[Pairs]:
        found = self.pairs_between
        return _pairs_of_positions(found, _HashPositions(hashes, salts), _HashPositions(others, other_salts))


class _HashPositions:
    """The positions of each hash in an array, with their salts."""

    def __init__(self, hashes: Hashes, salts: Hashes) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self._salts = salts

    def find(self, value: np.uint64) -> Sequence[tuple[int, int]]:
        """(position, salt) of each occurrence of a hash."""
        first, stop = (int(np.searchsorted(self._sorted, value, side)) for side in ("left", "right"))
        positions = self._order[first:stop]
        return list(zip(positions.tolist(), self._salts[positions].tolist(), strict=True))


def _pairs_of_positions(pairs: ValuePairs, left: _HashPositions, right: _HashPositions) -> Iterator[Pairs]:
    """The positions of all pairs of hashes that have the same salt."""
    for left_hash, right_hash in pairs:
        left_found, right_found = left.find(left_hash), right.find(right_hash)
        found = [(i, j) for i, left_salt in left_found for j, right_salt in right_found if left_salt == right_salt]
        if found:
            yield np.array(found, dtype=np.int64)
