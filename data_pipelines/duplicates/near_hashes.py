"""Finds pairs of 64-bit hashes that differ in a few bits, by an exact search.

Two hashes at most d bits apart differ in few bits of at least one of their four 16-bit parts, so only such pairs are
compared. The limit of each part may be another one: if the limits add up to d - 3, a pair that exceeds all four of them
differs in at least (d - 3) + 4 bits.
Source: multi-index hashing, Norouzi, Punjani and Fleet, arXiv 1307.2982; general pigeonhole principle, Qin et al.,
IEEE TKDE 2019.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Keys = npt.NDArray[np.int64]  # 16-bit parts of hashes
Pairs = npt.NDArray[np.int64]  # [N, 2]

NUM_PARTS = 4
NUM_KEYS = 1 << 16
POSITIONS_AT_ONCE = 1 << 15  # compared at once; their arrays fit into a core's cache
FEW_POSITIONS = 64  # fewer than this are compared one by one, which is faster
FEW_PAIRS = 1 << 21  # up to this many pairs, comparing all is faster than sorting


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """A part of a search that can run on its own: over the hashes whose key, in one part, lies in a range."""

    part: int
    first_key: int = 0
    stop_key: int = NUM_KEYS


def search_tasks(distance: int, slices: int = 1) -> list[SearchTask]:
    """The tasks of a whole search; each part of the hashes is divided into `slices` ranges of keys."""
    parts = [part for part, radius in enumerate(part_limits(distance)) if radius >= 0]
    bounds = [NUM_KEYS * index // slices for index in range(slices + 1)]
    keys = list(itertools.pairwise(bounds))
    return [SearchTask(part=part, first_key=first, stop_key=stop) for part in parts for first, stop in keys]


def near_pairs(hashes: Hashes, distance: int, tasks: list[SearchTask] | None = None) -> Iterator[Pairs]:
    """All pairs of positions (i, j) of distinct hashes at most `distance` bits apart, some of them more than once.

    `tasks`: only the pairs that these tasks of the search find; None: all pairs.
    """
    if tasks is None and len(hashes) ** 2 <= FEW_PAIRS:
        found = _compare_all(hashes, hashes, distance)
        yield found[found[:, 0] < found[:, 1]]
        return
    for task in search_tasks(distance) if tasks is None else tasks:
        yield from _search(hashes, hashes, task, distance, within=True)


def near_pairs_between(
    hashes: Hashes, others: Hashes, distance: int, tasks: list[SearchTask] | None = None
) -> Iterator[Pairs]:
    """All pairs of a position in `hashes` and one in `others` at most `distance` bits apart, some more than once.

    `tasks`: only the pairs that these tasks of the search find; None: all pairs.
    """
    if tasks is None and len(hashes) * len(others) <= FEW_PAIRS:
        yield _compare_all(hashes, others, distance)
        return
    for task in search_tasks(distance) if tasks is None else tasks:
        yield from _search(hashes, others, task, distance, within=False)


def _compare_all(hashes: Hashes, others: Hashes, distance: int) -> Pairs:
    return np.argwhere(np.bitwise_count(hashes[:, None] ^ others[None, :]) <= distance)


def part_limits(distance: int) -> list[int]:
    """The number of bits in which each part may differ at most; -1: the part need not be searched."""
    total = distance - NUM_PARTS + 1
    return [(total + part) // NUM_PARTS for part in range(NUM_PARTS)]


def _search(hashes: Hashes, others: Hashes, task: SearchTask, distance: int, *, within: bool) -> Iterator[Pairs]:
    """Near pairs whose 16-bit keys differ in no more bits than the part's limit.

    `within`: `hashes` and `others` are the same, and each pair comes once. Hashes are sorted by key first: then those
    that are compared are adjacent in memory, which is several times faster.
    """
    order, keys, ordered = _sort_by_key(hashes, task.part)
    other_order, other_keys, other_ordered = _sort_by_key(others, task.part)
    bounds = np.searchsorted(other_keys, np.arange(NUM_KEYS + 1))
    searched = np.arange(*np.searchsorted(keys, [task.first_key, task.stop_key]))
    for flips in range(part_limits(distance)[task.part] + 1):
        for bits in itertools.combinations(range(16), flips):
            mask = sum(1 << bit for bit in bits)
            chosen = searched
            if within and mask:
                chosen = searched[keys[searched] & (1 << bits[-1]) == 0]  # each pair of buckets once
            start, stop = bounds[keys[chosen] ^ mask], bounds[(keys[chosen] ^ mask) + 1]
            if within and not mask:
                start = chosen + 1
            for low, high in _near_positions(ordered, chosen, other_ordered, start, stop, distance):
                if within:
                    low, high = low[low != high], high[low != high]
                yield np.stack([order[low], other_order[high]], axis=1)


def _sort_by_key(hashes: Hashes, part: int) -> tuple[Keys, Keys, Hashes]:
    """The positions sorted by key, and the keys and the hashes in this order."""
    keys = ((hashes >> np.uint64(16 * part)) & np.uint64(0xFFFF)).astype(np.int64)
    order = np.argsort(keys, kind="stable")
    return order, keys[order], hashes[order]


def _near_positions(
    hashes: Hashes, chosen: Keys, others: Hashes, start: Keys, stop: Keys, distance: int
) -> Iterator[tuple[Keys, Keys]]:
    """The near pairs of each `chosen` position in `hashes` and its range of positions in `others`; and some more.

    Steps through the ranges of many positions at once. Stepping on to the end of the longest range can only find more
    true pairs and is cheaper than removing positions one by one; they are removed when many ranges have ended.
    """
    for first in range(0, len(chosen), POSITIONS_AT_ONCE):
        block = slice(first, first + POSITIONS_AT_ONCE)
        is_used = stop[block] > start[block]
        positions, begin, lengths = chosen[block][is_used], start[block][is_used], (stop - start)[block][is_used]
        step, compared = 0, hashes[positions]
        while len(positions) >= FEW_POSITIONS:
            high = np.minimum(begin + step, len(others) - 1)
            near = np.flatnonzero(np.bitwise_count(compared ^ others[high]) <= distance)
            if len(near):
                yield positions[near], high[near]
            step += 1
            alive = lengths > step
            if 4 * np.count_nonzero(alive) < 3 * len(positions):
                positions, begin, lengths, compared = positions[alive], begin[alive], lengths[alive], compared[alive]
        for position, low, length in zip(positions.tolist(), begin.tolist(), lengths.tolist(), strict=True):
            if length > step:
                rest = others[low + step : low + length]
                found = np.flatnonzero(np.bitwise_count(hashes[position] ^ rest) <= distance)
                if len(found):
                    yield np.full(len(found), position), found + low + step
