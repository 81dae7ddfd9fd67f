"""Finds which of many perceptual hashes are near a few thousand known ones: a join in bounded memory.

Two hashes at most d bits apart agree within d // 4 bits in at least one of their four 16-bit parts. A table per part
maps every key so near to a part of a known hash to that hash, so a hash is compared only with the known ones in its
four buckets.
Source: multi-index hashing, Norouzi, Punjani and Fleet, arXiv 1307.2982.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

PARTS, PART_BITS = 4, 16
NUM_KEYS = 1 << PART_BITS
MAX_TABLE = 1 << 24  # keys of one part of all known hashes: 64 MB; for more, the keys that are looked up vary instead
PAIRS_AT_ONCE = 1 << 21  # candidate pairs compared at once: 100 MB at most


@dataclass(frozen=True, kw_only=True)
class NearPairs:
    """Pairs of near hashes: arrays of equal length, sorted by position, no pair twice."""

    positions: Integers  # among the hashes that were looked up
    known: Integers  # among the known hashes
    distances: Integers  # bits that differ


class HashLookup:
    """Known hashes, indexed to find those near to others. `distance`: the bits in which near hashes differ at most."""

    def __init__(self, known: Hashes, distance: int) -> None:
        self._known, self._distance = np.asarray(known, dtype=np.uint64), distance
        radius = distance // PARTS
        table_radius = radius
        while table_radius and len(self._known) * len(_masks(table_radius)) > MAX_TABLE:
            table_radius -= 1
        self._tables: list[tuple[Integers, Integers]] = []  # for each part: bounds of the buckets, their members
        if PARTS * len(_masks(radius)) >= NUM_KEYS:  # the distance is so large that every pair has to be compared
            self._probes = np.zeros(1, dtype=np.int64)
            self._tables.append((np.array([0, len(self._known)]), np.arange(len(self._known))))
            return
        self._probes = _masks(radius - table_radius)
        for part in range(PARTS):
            keys = (_keys(self._known, part)[:, None] ^ _masks(table_radius)).reshape(-1)
            order = np.argsort(keys, kind="stable")
            bounds = np.searchsorted(keys[order], np.arange(NUM_KEYS + 1))
            self._tables.append((bounds, order // len(_masks(table_radius))))

    def near(self, hashes: Hashes) -> NearPairs:
        """All pairs of one of `hashes` and a known hash within the distance."""
        found: list[Integers] = []
        for part, (bounds, members) in enumerate(self._tables):
            compares_all = len(self._tables) == 1
            keys = np.zeros(len(hashes), dtype=np.int64) if compares_all else _keys(hashes, part)
            for probe in self._probes:
                starts = bounds[keys ^ probe]
                for positions, slots in expand_ranges(starts, bounds[(keys ^ probe) + 1] - starts, PAIRS_AT_ONCE):
                    known = members[slots]
                    distances = np.bitwise_count(hashes[positions] ^ self._known[known])
                    near = np.flatnonzero(distances <= self._distance)
                    found.append(positions[near] * len(self._known) + known[near])
        pairs = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
        positions, known = np.divmod(pairs, max(1, len(self._known)))
        distances = np.bitwise_count(hashes[positions] ^ self._known[known]).astype(np.int64)
        return NearPairs(positions=positions, known=known, distances=distances)


def _keys(hashes: Hashes, part: int) -> Integers:
    return ((hashes >> np.uint64(PART_BITS * part)) & np.uint64(NUM_KEYS - 1)).astype(np.int64)


def _masks(radius: int) -> Integers:
    """All keys with at most `radius` bits set."""
    chosen = (bits for count in range(radius + 1) for bits in itertools.combinations(range(PART_BITS), count))
    return np.array([sum(1 << bit for bit in bits) for bits in chosen], dtype=np.int64)


def expand_ranges(starts: Integers, counts: Integers, at_once: int) -> Iterator[tuple[Integers, Integers]]:
    """For each range `starts[i]`, `starts[i] + 1`, ... of `counts[i]` numbers: i and the number, about `at_once` pairs.

    Yields two arrays at a time: the indices i, and the numbers.
    """
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        base = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, base + at_once, side="right")))
        sizes = counts[first:last]
        within = np.arange(int(ends[last - 1]) - base) - np.repeat(ends[first:last] - sizes - base, sizes)
        yield np.repeat(np.arange(first, last), sizes), np.repeat(starts[first:last], sizes) + within
        first = last
