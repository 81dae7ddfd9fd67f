"""Which of many perceptual hashes are near a few thousand asked ones: a join in bounded memory.

Two hashes at most d bits apart agree within d // 4 bits in at least one of their four 16-bit parts. All keys that near
a part of an asked hash stand in a table, so a hash of the stream meets only the asked ones in its four buckets.
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
MAX_TABLE = 1 << 24  # keys of one part of all asked hashes: 64 MB; beyond it the stream's keys are varied too
PAIRS_AT_ONCE = 1 << 21  # candidates compared in one go: 100 MB at most


@dataclass(frozen=True, kw_only=True)
class NearPairs:
    """Pairs of hashes that are near; arrays of equal length, no pair twice, by place in the stream."""

    places: Integers  # in the stream
    asked: Integers  # which of the asked hashes
    distances: Integers  # bits that differ


class LookAlikes:
    """Some asked hashes, ready to be compared with streams of others."""

    def __init__(self, asked: Hashes, near: int) -> None:
        self._asked, self._near = np.asarray(asked, dtype=np.uint64), near
        radius = near // PARTS
        inside = radius
        while inside and len(self._asked) * len(_masks(inside)) > MAX_TABLE:
            inside -= 1
        self._tables: list[tuple[Integers, Integers]] = []  # for each part: bounds of the buckets, what is in them
        if PARTS * len(_masks(radius)) >= NUM_KEYS:  # so far apart that every pair has to be compared
            self._probes = np.zeros(1, dtype=np.int64)
            self._tables.append((np.array([0, len(self._asked)]), np.arange(len(self._asked))))
            return
        self._probes = _masks(radius - inside)
        for part in range(PARTS):
            keys = (_keys(self._asked, part)[:, None] ^ _masks(inside)).reshape(-1)
            order = np.argsort(keys, kind="stable")
            bounds = np.searchsorted(keys[order], np.arange(NUM_KEYS + 1))
            self._tables.append((bounds, order // len(_masks(inside))))

    def near(self, hashes: Hashes) -> NearPairs:
        """All pairs of `hashes` and asked ones that differ in few enough bits."""
        found: list[Integers] = []
        for part, (bounds, members) in enumerate(self._tables):
            compares_all = len(self._tables) == 1
            keys = np.zeros(len(hashes), dtype=np.int64) if compares_all else _keys(hashes, part)
            for probe in self._probes:
                starts = bounds[keys ^ probe]
                for places, at in expanded(starts, bounds[(keys ^ probe) + 1] - starts, PAIRS_AT_ONCE):
                    asked = members[at]
                    close = np.flatnonzero(np.bitwise_count(hashes[places] ^ self._asked[asked]) <= self._near)
                    found.append(places[close] * len(self._asked) + asked[close])
        pairs = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
        places, asked = np.divmod(pairs, max(1, len(self._asked)))
        distances = np.bitwise_count(hashes[places] ^ self._asked[asked]).astype(np.int64)
        return NearPairs(places=places, asked=asked, distances=distances)


def _keys(hashes: Hashes, part: int) -> Integers:
    return ((hashes >> np.uint64(PART_BITS * part)) & np.uint64(NUM_KEYS - 1)).astype(np.int64)


def _masks(radius: int) -> Integers:
    """All keys with at most `radius` bits."""
    chosen = (bits for count in range(radius + 1) for bits in itertools.combinations(range(PART_BITS), count))
    return np.array([sum(1 << bit for bit in bits) for bits in chosen], dtype=np.int64)


def expanded(starts: Integers, counts: Integers, at_once: int) -> Iterator[tuple[Integers, Integers]]:
    """Every place with each of the `counts` numbers from its start on, about `at_once` at a time."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        base = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, base + at_once, side="right")))
        sizes = counts[first:last]
        within = np.arange(int(ends[last - 1]) - base) - np.repeat(ends[first:last] - sizes - base, sizes)
        yield np.repeat(np.arange(first, last), sizes), np.repeat(starts[first:last], sizes) + within
        first = last
