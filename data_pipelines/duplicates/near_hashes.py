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
Integers = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]  # [N, 2]

NUM_PARTS, PART_BITS = 4, 16
NUM_KEYS = 1 << PART_BITS
MAX_FILED = 1 << 22  # entries of the buckets by one part, 64 MB, if hashes are filed under several keys
POSITIONS_AT_ONCE = 1 << 15  # compared at once; their arrays fit into a core's cache
FEW_POSITIONS = 16  # fewer than this are compared one by one, which is faster
FEW_PAIRS = 1 << 21  # up to this many pairs, comparing all is faster than sorting
HASH_BITS = 64
FLAT_ENTROPY = 4.0  # bits of the grey histogram; photographs have 6 to 8
FLAT_SHARE = 0.4  # of the limit, for flat images


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """A part of a search that can run on its own: over the hashes whose key, in one part, lies in a range."""

    part: int
    first_key: int = 0
    stop_key: int = NUM_KEYS


def near_limit(phash: int, near: int, entropy: float | None = None) -> int:
    """The bits in which an image may differ from this one to be near it; fewer for flat images.

    `entropy`: bits of its grey histogram. Drawings with few greys have much the same outline, so that unrelated ones
    are near each other; copies of them that were encoded again or resized differ in at most 4 bits (95% of 300).

    Of a photograph's hash half of the bits are set, and unrelated hashes differ in 32 of 64. A drawing on a plain
    ground has few frequencies that stand out, so k bits are set, and unrelated hashes of k bits differ in
    2 k (1 - k / 64): all drawings would be near each other. The limit is the same share of that difference.
    """
    num_set = min(phash.bit_count(), HASH_BITS // 2)
    if entropy is not None and entropy < FLAT_ENTROPY:
        near = round(near * FLAT_SHARE)
    return round(near * 2 * num_set * (1 - num_set / HASH_BITS) / (HASH_BITS // 2))


def search_tasks(distance: int, slices: int = 1) -> list[SearchTask]:
    """The tasks of a whole search; each part of the hashes is divided into `slices` ranges of keys."""
    parts = [part for part, limit in enumerate(part_limits(distance)) if limit >= 0]
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
        buckets = _Buckets(hashes, task.part)
        yield from _search(buckets, buckets, task, distance)


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
        yield from _search(_Buckets(hashes, task.part), _Buckets(others, task.part), task, distance)


class SortedHashes:
    """Hashes, and their order by the part that was searched last: of many hashes sorting takes longer than a task."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = hashes
        self._part = -1
        self._buckets: _Buckets | None = None

    def buckets(self, part: int) -> "_Buckets":
        if self._buckets is None or self._part != part:
            self._buckets = None  # both at once would take twice the memory
            self._buckets, self._part = _Buckets(self.hashes, part), part
        return self._buckets


def task_pairs(left: SortedHashes, right: SortedHashes, task: SearchTask, distance: int) -> Iterator[Pairs]:
    """The pairs that one task finds; if `left` is `right`, among its hashes, each pair once."""
    yield from _search(left.buckets(task.part), right.buckets(task.part), task, distance)


@dataclass(frozen=True, kw_only=True)
class NearPairs:
    """Pairs of near hashes: arrays of equal length, sorted by position, no pair twice."""

    positions: Integers  # among the hashes that were looked up
    known: Integers  # among the known hashes
    distances: Integers  # bits that differ


class HashLookup:
    """A few thousand known hashes, prepared to find those near to many others, a block of them at a time."""

    def __init__(self, known: Hashes, distance: int) -> None:
        """`distance`: the bits in which near hashes differ at most."""
        self._known, self._distance = np.asarray(known, dtype=np.uint64), distance
        self._tasks = search_tasks(distance)
        self._buckets = [_Buckets(self._known, task.part, self._radius(task)) for task in self._tasks]

    def _radius(self, task: SearchTask) -> int:
        """Filing the known hashes under all near keys costs memory, but then each other hash has one bucket."""
        radius = part_limits(self._distance)[task.part]
        while radius and len(self._known) * len(_masks(radius)) > MAX_FILED:
            radius -= 1
        return radius

    def near(self, hashes: Hashes) -> NearPairs:
        """All pairs of one of `hashes` and a known hash within the distance."""
        num_known, found = max(1, len(self._known)), [np.zeros(0, np.int64)]
        for task, known in zip(self._tasks, self._buckets, strict=True):
            for pairs in _search(_Buckets(hashes, task.part), known, task, self._distance):
                found.append(pairs[:, 0] * num_known + pairs[:, 1])
        positions, known_positions = np.divmod(np.unique(np.concatenate(found)), num_known)
        distances = np.bitwise_count(hashes[positions] ^ self._known[known_positions]).astype(np.int64)
        return NearPairs(positions=positions, known=known_positions, distances=distances)


def part_limits(distance: int) -> list[int]:
    """The number of bits in which each part may differ at most; -1: the part need not be searched."""
    total = distance - NUM_PARTS + 1
    return [(total + part) // NUM_PARTS for part in range(NUM_PARTS)]


def _compare_all(hashes: Hashes, others: Hashes, distance: int) -> Pairs:
    return np.argwhere(np.bitwise_count(hashes[:, None] ^ others[None, :]) <= distance)


def _masks(radius: int) -> list[int]:
    """All keys with at most `radius` bits set."""
    chosen = (bits for count in range(radius + 1) for bits in itertools.combinations(range(PART_BITS), count))
    return [sum(1 << bit for bit in bits) for bits in chosen]


class _Buckets:
    """Hashes sorted by one of their parts; so those that are compared are adjacent in memory.

    `radius`: each hash is filed under all keys that differ from its own in so many bits.
    """

    def __init__(self, hashes: Hashes, part: int, radius: int = 0) -> None:
        masks = np.array(_masks(radius), dtype=np.uint16)
        own = ((hashes >> np.uint64(PART_BITS * part)) & np.uint64(NUM_KEYS - 1)).astype(np.uint16)
        keys = (own[:, None] ^ masks).reshape(-1)
        order = np.argsort(keys, kind="stable")  # a radix sort for 16 bits
        self.radius = radius
        self.counts = np.bincount(keys, minlength=NUM_KEYS)  # of each bucket
        self.bounds = np.concatenate([[0], np.cumsum(self.counts)])
        self.positions = order // len(masks)
        self.hashes = hashes[self.positions]


def _search(left: _Buckets, right: _Buckets, task: SearchTask, distance: int) -> Iterator[Pairs]:
    """Near pairs whose 16-bit keys differ in no more bits than the part's limit; if left is right, each pair once."""
    is_within = left is right
    filled = np.flatnonzero(left.counts[task.first_key : task.stop_key]) + task.first_key
    for mask in _masks(part_limits(distance)[task.part] - right.radius):
        keys = filled
        if is_within and mask:  # each pair of buckets once
            keys = filled[filled & 1 << (mask.bit_length() - 1) == 0]
        for low, high in _compare_buckets(left, right, keys, mask, distance):
            if is_within and not mask:
                is_ordered = low < high
                low, high = low[is_ordered], high[is_ordered]
            yield np.stack([left.positions[low], right.positions[high]], axis=1)


def _compare_buckets(
    left: _Buckets, right: _Buckets, keys: Integers, mask: int, distance: int
) -> Iterator[tuple[Integers, Integers]]:
    """The near pairs of the hashes in each of the buckets `keys` on the left and in `keys ^ mask` on the right.

    Steps through the right buckets of many left hashes at once. Those with the largest come first, so that the hashes
    that are not yet compared with their whole bucket are always the first ones.
    """
    keys = keys[np.argsort(-right.counts[keys ^ mask], kind="stable")]
    sizes, ends = left.counts[keys], np.cumsum(left.counts[keys])
    positions = np.arange(sizes.sum()) + np.repeat(left.bounds[keys] + sizes - ends, sizes)
    starts, lengths = (np.repeat(column[keys ^ mask], sizes) for column in (right.bounds, right.counts))
    for first in range(0, len(positions), POSITIONS_AT_ONCE):
        block = slice(first, first + POSITIONS_AT_ONCE)
        low, high, left_over = positions[block], starts[block], lengths[block]
        compared = left.hashes[low]
        step, count = 0, np.count_nonzero(left_over)
        while count >= FEW_POSITIONS:
            differing = right.hashes[step:].take(high[:count], mode="clip")  # the quickest mode; none lies beyond
            differing ^= compared[:count]
            near = np.flatnonzero(np.bitwise_count(differing) <= distance)
            if len(near):
                yield low[near], high[near] + step
            step += 1
            count = np.count_nonzero(left_over[:count] > step)
        for position, start, length in zip(*(x[:count].tolist() for x in (low, high, left_over)), strict=True):
            rest = right.hashes[start + step : start + length]
            near = np.flatnonzero(np.bitwise_count(left.hashes[position] ^ rest) <= distance)
            if len(near):
                yield np.full(len(near), position), near + start + step
