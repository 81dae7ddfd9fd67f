"""Finds copies among all samples of a dataset: the same record or picture, pictures that look the same, or mirrored.

Of each set of copies one sample is kept, and all others point at it.

Legend: N candidates.
"""

import itertools
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from data_pipelines.duplicates.candidates import EXACT_REASONS, Candidates, Integers
from data_pipelines.duplicates.near_hashes import Hashes, Pairs, near_pairs, near_pairs_between

EQUALS_COMPARED = 32  # of many samples with one hash, each is compared with this many others


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How far apart pictures may be that count as the same."""

    phash_distance: int  # of 64 bits
    colour_distance: float  # mean over the miniatures, 0..255


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Candidate `index` repeats candidate `original`, which is kept."""

    index: int
    original: int
    verdict: str  # "duplicate", "near_duplicate" or "mirrored"
    reason: str  # "same_record", "same_bytes", "same_pixels", "similar_picture" or "mirrored_picture"


class PairSearch(Protocol):
    """Finds pairs of places whose hashes differ in few bits, among those with the same salt; some more than once."""

    def within(self, hashes: Hashes, salts: Hashes, distance: int) -> Iterator[Pairs]: ...

    def between(
        self, hashes: Hashes, salts: Hashes, others: Hashes, other_salts: Hashes, distance: int
    ) -> Iterator[Pairs]: ...


class PlainSearch:
    """Compares them here and now."""

    def within(self, hashes: Hashes, salts: Hashes, distance: int) -> Iterator[Pairs]:
        return near_pairs(hashes ^ salts, distance)

    def between(
        self, hashes: Hashes, salts: Hashes, others: Hashes, other_salts: Hashes, distance: int
    ) -> Iterator[Pairs]:
        return near_pairs_between(hashes ^ salts, others ^ other_salts, distance)


PLAIN_SEARCH = PlainSearch()


def find_copies(candidates: Candidates, *, near: Likeness | None, search: PairSearch = PLAIN_SEARCH) -> list[Copy]:
    """All samples that repeat another one, in order; `near`: None finds exact copies only.

    Similar pictures form groups, also through others between them; the first of a group is kept. Of two groups that
    mirror each other the one with a held-out sample is kept, else the one with more copies, else the earlier one: a
    flipped copy is rarer than its original.
    """
    copies = _exact_copies(candidates)
    if near is not None:
        firsts_N = np.arange(len(candidates))  # of each sample the one that it repeats, or itself
        for copy in copies:
            firsts_N[copy.index] = copy.original
        while not np.array_equal(above := firsts_N[firsts_N], firsts_N):
            firsts_N = above
        pictured = candidates.pictured()
        compared = np.flatnonzero(pictured & (firsts_N == np.arange(len(candidates))))
        groups_N = _similar_groups(candidates, compared, near, search)
        mirrors = _mirrored_groups(candidates, compared, groups_N, near, search)
        sizes_N = np.bincount(groups_N[firsts_N[pictured]], minlength=len(candidates))
        moved = _kept_sides(mirrors, sizes_N, candidates)
        changed = (groups_N[compared] != compared) | np.isin(groups_N[compared], list(moved))
        copies += _group_copies(compared[changed], groups_N, moved)
    return towards_kept(copies)


def _exact_copies(candidates: Candidates) -> list[Copy]:
    """Each with the earlier sample that it repeats first, and in what it is the same."""
    copies = []
    alive_N = np.ones(len(candidates), dtype=np.bool_)
    for reason in EXACT_REASONS:
        found, originals = candidates.equals(reason, alive_N)
        alive_N[found] = False
        copies += [
            Copy(index=index, original=original, verdict="duplicate", reason=reason)
            for index, original in zip(found.tolist(), originals.tolist(), strict=True)
        ]
    return copies


def towards_kept(copies: list[Copy]) -> list[Copy]:
    """Point every copy at a sample that is kept, not at another copy; a copy of a mirrored picture is mirrored too."""
    by_index = {copy.index: copy for copy in copies}
    moved = []
    for copy in copies:
        end = copy
        while end.original in by_index:
            end = by_index[end.original]
        told = end if end.verdict == "mirrored" else copy
        moved.append(replace(copy, original=end.original, verdict=told.verdict, reason=told.reason))
    return sorted(moved, key=lambda copy: copy.index)


def _similar_groups(candidates: Candidates, compared: Integers, limits: Likeness, search: PairSearch) -> Integers:
    """The first sample of the group of each [N], itself where it was not compared; pictures are held slot to slot."""
    parents = array("q", range(len(candidates)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    hashes = candidates.phashes[candidates.starts[compared]]
    for one, other in _compared(hashes, candidates.salts[compared], limits.phash_distance, search):
        index, beside = int(compared[one]), int(compared[other])
        first, second = root(index), root(beside)
        if first != second and _look_alike(candidates, index, beside, limits):
            parents[max(first, second)] = min(first, second)
    groups_N = np.array(parents)
    while not np.array_equal(above := groups_N[groups_N], groups_N):
        groups_N = above
    return groups_N


def _mirrored_groups(
    candidates: Candidates, compared: Integers, groups_N: Integers, limits: Likeness, search: PairSearch
) -> dict[int, set[int]]:
    """For the first sample of each group that has a mirror image: the firsts of the groups that show it."""
    links: dict[int, set[int]] = {}
    places = compared[candidates.with_mirrored[compared]]
    starts, salts = candidates.starts[places], candidates.salts[places]
    hashes, flipped = candidates.phashes[starts], candidates.mirrored_phashes[starts]
    for one, other in _compared_between(hashes, flipped, salts, limits.phash_distance, search):
        index, beside = int(places[one]), int(places[other])
        first, second = int(groups_N[index]), int(groups_N[beside])
        if first == second or second in links.get(first, ()):
            continue
        if _look_alike(candidates, index, beside, limits, mirrored=True):
            links.setdefault(first, set()).add(second)
            links.setdefault(second, set()).add(first)
    return links


def _kept_sides(
    mirrors: Mapping[int, set[int]], sizes_N: Integers, candidates: Candidates
) -> dict[int, tuple[int, str, str]]:
    """For the first sample of each group that is not kept: the one that is, verdict and reason."""
    moved: dict[int, tuple[int, str, str]] = {}
    seen: set[int] = set()
    for start in sorted(mirrors, key=lambda first: (not candidates.held_out[first], -sizes_N[first], first)):
        if start in seen:
            continue
        seen.add(start)
        layer, flips = {start}, 0
        while layer := {other for first in layer for other in mirrors[first]} - seen:
            seen |= layer
            flips += 1
            words = ("mirrored", "mirrored_picture") if flips % 2 else ("near_duplicate", "similar_picture")
            moved.update({first: (start, *words) for first in layer})
    return moved


def _group_copies(indices: Integers, groups_N: Integers, moved: Mapping[int, tuple[int, str, str]]) -> list[Copy]:
    copies = []
    for index in indices.tolist():
        first = int(groups_N[index])
        original, verdict, reason = moved.get(first, (first, "near_duplicate", "similar_picture"))
        copies.append(Copy(index=index, original=original, verdict=verdict, reason=reason))
    return copies


def _compared(hashes: Hashes, salts: Hashes, distance: int, search: PairSearch) -> Iterator[tuple[int, int]]:
    """Places whose pictures are worth a closer look: near hashes, and of many equal ones each with the next few."""
    groups = _Equal(hashes, salts)
    for group in groups.of_several():
        for place, one in enumerate(group):
            for other in group[place + 1 : place + 1 + EQUALS_COMPARED]:
                yield one, other
    yield from _members(search.within(hashes[groups.firsts], salts[groups.firsts], distance), groups, groups)


def _compared_between(
    hashes: Hashes, others: Hashes, salts: Hashes, distance: int, search: PairSearch
) -> Iterator[tuple[int, int]]:
    """Places in `hashes` and in `others` whose pictures are worth a closer look."""
    groups, beside = _Equal(hashes, salts), _Equal(others, salts)
    found = search.between(
        hashes[groups.firsts], salts[groups.firsts], others[beside.firsts], salts[beside.firsts], distance
    )
    yield from _members(found, groups, beside)


class _Equal:
    """Places by their hash and salt, in order of both."""

    def __init__(self, hashes: Hashes, salts: Hashes) -> None:
        salted = hashes ^ salts
        self._order = np.argsort(salted, kind="stable")
        _, starts = np.unique(salted[self._order], return_index=True)
        self._bounds = np.append(starts, len(salted))
        self.firsts = self._order[starts]  # one place of each hash and salt

    def first_few(self, number: int) -> list[int]:
        """Places with hash and salt `number`, of many the first few."""
        start, stop = int(self._bounds[number]), int(self._bounds[number + 1])
        return self._order[start : min(stop, start + EQUALS_COMPARED)].tolist()

    def of_several(self) -> Iterator[list[int]]:
        """All places of each hash and salt that has several."""
        for number in np.flatnonzero(np.diff(self._bounds) > 1).tolist():
            yield self._order[self._bounds[number] : self._bounds[number + 1]].tolist()


def _members(found: Iterator[Pairs], groups: _Equal, beside: _Equal) -> Iterator[tuple[int, int]]:
    for pairs in found:
        for low, high in pairs.tolist():
            yield from itertools.product(groups.first_few(low), beside.first_few(high))


def _look_alike(candidates: Candidates, index: int, beside: int, limits: Likeness, *, mirrored: bool = False) -> bool:
    """Picture by picture; `mirrored`: those of the second sample with left and right swapped."""
    if candidates.salts[index] != candidates.salts[beside]:
        return False
    ones, others = (slice(*candidates.starts[place : place + 2].tolist()) for place in (index, beside))
    hashes = candidates.mirrored_phashes if mirrored else candidates.phashes
    if (np.bitwise_count(candidates.phashes[ones] ^ hashes[others]) > limits.phash_distance).any():
        return False
    looks = candidates.miniatures[others, :, ::-1] if mirrored else candidates.miniatures[others]
    difference = np.abs(candidates.miniatures[ones].astype(np.int16) - looks)
    return bool((difference.mean(axis=(1, 2, 3)) <= limits.colour_distance).all())
