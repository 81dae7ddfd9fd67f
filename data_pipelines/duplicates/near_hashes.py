"""Finds 64-bit hashes that differ in a few bits, by an exact search.

Two hashes at most d bits apart differ in few bits of at least one of their four 16-bit parts, so only such pairs are
compared. How few may differ from part to part: with the parts' limits adding up to d - 3, a pair over all four of
them differs in at least (d - 3) + 4 bits.
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
PLACES_AT_ONCE = 1 << 15  # compared in one go, so few that their arrays stay in a core's cache
FEW_PLACES = 64  # so many are better taken one by one
FEW_PAIRS = 1 << 21  # so many are sooner compared all than sorted


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A share of a search that can be made on its own: of the hashes whose key, in one part, lies in a range."""

    part: int
    first_key: int = 0
    stop_key: int = NUM_KEYS


def pieces(distance: int, slices: int = 1) -> list[Piece]:
    """A whole search, each part of the hashes in so many slices."""
    parts = [part for part, radius in enumerate(part_limits(distance)) if radius >= 0]
    bounds = [NUM_KEYS * place // slices for place in range(slices + 1)]
    keys = list(itertools.pairwise(bounds))
    return [Piece(part=part, first_key=first, stop_key=stop) for part in parts for first, stop in keys]


def near_pairs(hashes: Hashes, distance: int, made: list[Piece] | None = None) -> Iterator[Pairs]:
    """All pairs of places (i, j) of distinct hashes at most `distance` bits apart, some of them more than once.

    `made`: only what these pieces of the search find.
    """
    if made is None and len(hashes) ** 2 <= FEW_PAIRS:
        found = _compare_all(hashes, hashes, distance)
        yield found[found[:, 0] < found[:, 1]]
        return
    for piece in pieces(distance) if made is None else made:
        yield from _search(hashes, hashes, piece, distance, within=True)


def near_pairs_between(
    hashes: Hashes, others: Hashes, distance: int, made: list[Piece] | None = None
) -> Iterator[Pairs]:
    """All pairs of a place in `hashes` and one in `others` at most `distance` bits apart, some more than once.

    `made`: only what these pieces of the search find.
    """
    if made is None and len(hashes) * len(others) <= FEW_PAIRS:
        yield _compare_all(hashes, others, distance)
        return
    for piece in pieces(distance) if made is None else made:
        yield from _search(hashes, others, piece, distance, within=False)


def _compare_all(hashes: Hashes, others: Hashes, distance: int) -> Pairs:
    return np.argwhere(np.bitwise_count(hashes[:, None] ^ others[None, :]) <= distance)


def part_limits(distance: int) -> list[int]:
    """In how many bits each part may differ at most; -1: the part is not needed."""
    total = distance - NUM_PARTS + 1
    return [(total + place) // NUM_PARTS for place in range(NUM_PARTS)]


def _search(hashes: Hashes, others: Hashes, piece: Piece, distance: int, *, within: bool) -> Iterator[Pairs]:
    """Near pairs whose 16-bit keys differ in no more bits than the part's limit.

    `within`: both are the same hashes, and each pair comes once. Hashes are sorted by key first: then those compared
    with one another lie side by side in memory, which is several times faster.
    """
    order, keys, ordered = _by_key(hashes, piece.part)
    other_order, other_keys, other_ordered = _by_key(others, piece.part)
    bounds = np.searchsorted(other_keys, np.arange(NUM_KEYS + 1))
    searched = np.arange(*np.searchsorted(keys, [piece.first_key, piece.stop_key]))
    for flips in range(part_limits(distance)[piece.part] + 1):
        for bits in itertools.combinations(range(16), flips):
            mask = sum(1 << bit for bit in bits)
            chosen = searched
            if within and mask:
                chosen = searched[keys[searched] & (1 << bits[-1]) == 0]  # each pair of buckets once
            start, stop = bounds[keys[chosen] ^ mask], bounds[(keys[chosen] ^ mask) + 1]
            if within and not mask:
                start = chosen + 1
            for low, high in _close(ordered, chosen, other_ordered, start, stop, distance):
                if within:
                    low, high = low[low != high], high[low != high]
                yield np.stack([order[low], other_order[high]], axis=1)


def _by_key(hashes: Hashes, part: int) -> tuple[Keys, Keys, Hashes]:
    """Places sorted by their key, the keys and the hashes in this order."""
    keys = ((hashes >> np.uint64(16 * part)) & np.uint64(0xFFFF)).astype(np.int64)
    order = np.argsort(keys, kind="stable")
    return order, keys[order], hashes[order]


def _close(
    hashes: Hashes, chosen: Keys, others: Hashes, start: Keys, stop: Keys, distance: int
) -> Iterator[tuple[Keys, Keys]]:
    """The near ones among `chosen` places in `hashes`, each with its range of places in `others`; and some more.

    Steps through the ranges of many places at once. It is cheaper to step on to the end of the longest range, which
    can only find further true pairs, than to leave out places one by one; they are left out when many have ended.
    """
    for first in range(0, len(chosen), PLACES_AT_ONCE):
        block = slice(first, first + PLACES_AT_ONCE)
        used = stop[block] > start[block]
        places, begin, left = chosen[block][used], start[block][used], (stop - start)[block][used]
        step, held = 0, hashes[places]
        while len(places) >= FEW_PLACES:
            high = np.minimum(begin + step, len(others) - 1)
            close = np.flatnonzero(np.bitwise_count(held ^ others[high]) <= distance)
            if len(close):
                yield places[close], high[close]
            step += 1
            alive = left > step
            if 4 * np.count_nonzero(alive) < 3 * len(places):
                places, begin, left, held = places[alive], begin[alive], left[alive], held[alive]
        for place, low, rest in zip(places.tolist(), begin.tolist(), left.tolist(), strict=True):
            if rest > step:
                found = np.flatnonzero(np.bitwise_count(hashes[place] ^ others[low + step : low + rest]) <= distance)
                if len(found):
                    yield np.full(len(found), place), found + low + step
