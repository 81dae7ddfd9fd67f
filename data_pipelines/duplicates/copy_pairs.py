"""The search for near and mirrored pictures in pieces, each of which another process can make from the same files.

A piece finds pairs of values, not of samples, so it hangs on nothing but the hashes and the distance.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.duplicates.near_hashes import Hashes, Pairs, Piece, near_pairs, near_pairs_between

PAIRS_SCHEMA = pa.schema([("hash", pa.uint64()), ("other", pa.uint64())])
SEARCHES = ("within", "between")  # among the hashes; between them and those of the mirrored pictures
ValuePairs = Hashes  # [N, 2]


def first_hashes(analyses: Iterable[Path]) -> tuple[Hashes, Hashes]:
    """Of the first pictures of all that is not dropped yet: their hashes and those mirrored, sorted, each once."""
    columns: dict[str, list[Hashes]] = {"phash": [], "mirrored_phash": []}
    for path in analyses:
        table = pq.read_table(path, columns=["reason", *columns])
        has_picture = pc.greater(pc.list_value_length(table["phash"]), 0)
        pictured = table.filter(pc.and_(pc.is_null(table["reason"]), has_picture))
        for name, found in columns.items():
            found.append(np.asarray(pc.list_element(pictured[name], 0), dtype=np.uint64))
    plain, mirrored = (np.unique(np.concatenate([np.zeros(0, np.uint64), *found])) for found in columns.values())
    return plain, mirrored


def write_pairs(hashes: tuple[Hashes, Hashes], search: str, piece: Piece, distance: int, output: Path) -> int:
    """Write the pairs that one piece of a search (one of `SEARCHES`) finds as a Parquet file; how many there are."""
    plain, mirrored = hashes
    if search == "within":
        others, found = plain, near_pairs(plain, distance, [piece])
    else:
        others, found = mirrored, near_pairs_between(plain, mirrored, distance, [piece])
    values = [np.stack([plain[pairs[:, 0]], others[pairs[:, 1]]], axis=1) for pairs in found if len(pairs)]
    each_once = np.unique(np.concatenate([np.zeros((0, 2), np.uint64), *values]), axis=0)
    columns = [pa.array(np.ascontiguousarray(each_once[:, side])) for side in range(2)]
    pq.write_table(pa.table(columns, schema=PAIRS_SCHEMA), output, compression="zstd")
    return len(each_once)


def read_pairs(paths: Iterable[Path]) -> ValuePairs:
    """What several pieces found, each pair once."""
    found = [np.zeros((0, 2), np.uint64)]
    for path in paths:
        table = pq.read_table(path)
        found.append(np.stack([np.asarray(table[name], dtype=np.uint64) for name in PAIRS_SCHEMA.names], axis=1))
    return np.unique(np.concatenate(found), axis=0)


@dataclass(frozen=True, kw_only=True)
class FoundPairs:
    """A `PairSearch` over hashes that were compared before."""

    pairs_within: ValuePairs
    pairs_between: ValuePairs

    def within(self, hashes: Hashes, salts: Hashes, distance: int) -> Iterator[Pairs]:
        return _places(self.pairs_within, _Places(hashes, salts), _Places(hashes, salts))

    def between(
        self, hashes: Hashes, salts: Hashes, others: Hashes, other_salts: Hashes, distance: int
    ) -> Iterator[Pairs]:
        return _places(self.pairs_between, _Places(hashes, salts), _Places(others, other_salts))


class _Places:
    """Where each hash stands, and with which salt."""

    def __init__(self, hashes: Hashes, salts: Hashes) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self._salts = salts

    def of(self, value: np.uint64) -> Sequence[tuple[int, int]]:
        """(place, salt) of each that has this hash."""
        first, stop = (int(np.searchsorted(self._sorted, value, side)) for side in ("left", "right"))
        places = self._order[first:stop]
        return list(zip(places.tolist(), self._salts[places].tolist(), strict=True))


def _places(pairs: ValuePairs, places: _Places, other_places: _Places) -> Iterator[Pairs]:
    for one, other in pairs:
        ones, others = places.of(one), other_places.of(other)
        found = [(place, beside) for place, salt in ones for beside, its_salt in others if salt == its_salt]
        if found:
            yield np.array(found, dtype=np.int64)
