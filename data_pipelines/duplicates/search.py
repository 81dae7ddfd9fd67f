"""Finds copies among all samples of a dataset: equal records or images, similar images, mirrored images.

Of each set of copies one sample is kept, and all others point to it.

Legend: N candidates.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from data_pipelines.duplicates.candidates import EXACT_REASONS, Candidates, Integers
from data_pipelines.duplicates.near_hashes import Hashes, Pairs, near_pairs, near_pairs_between
from data_pipelines.duplicates.union_find import UnionFind

EQUALS_COMPARED = 32  # among many samples with one hash, each is compared with at most this many others


@dataclass(frozen=True, kw_only=True)
class SimilarityLimits:
    """The largest differences of images that count as similar."""

    phash_distance: int  # of 64 bits
    colour_distance: float  # mean over the miniatures, 0..255


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Candidate `index` repeats candidate `original`, which is kept."""

    index: int
    original: int
    verdict: str  # "duplicate", "near_duplicate" or "mirrored"
    reason: str  # "same_record", "same_bytes", "same_pixels", "similar_image" or "mirrored_image"


class PairSearch(Protocol):
    """Finds pairs of positions whose hashes differ in few bits and whose salts are equal; some more than once."""

    def within(self, hashes: Hashes, salts: Hashes, distance: int) -> Iterator[Pairs]: ...

    def between(
        self, hashes: Hashes, salts: Hashes, others: Hashes, other_salts: Hashes, distance: int
    ) -> Iterator[Pairs]: ...


class CloserLook(Protocol):
    """Looks at two samples that hashes and miniatures call similar, before one of them is left out."""

    def same(self, index: int, other: int, *, mirrored: bool) -> bool:
        """Whether the images of two candidates show the same, those of the second with left and right swapped if
        `mirrored`."""


class InProcessSearch:
    """Compares the hashes in this process."""

    def within(self, hashes: Hashes, salts: Hashes, distance: int) -> Iterator[Pairs]:
        return near_pairs(hashes ^ salts, distance)

    def between(
        self, hashes: Hashes, salts: Hashes, others: Hashes, other_salts: Hashes, distance: int
    ) -> Iterator[Pairs]:
        return near_pairs_between(hashes ^ salts, others ^ other_salts, distance)


IN_PROCESS_SEARCH = InProcessSearch()


def find_copies(
    candidates: Candidates,
    *,
    near: SimilarityLimits | None,
    search: PairSearch = IN_PROCESS_SEARCH,
    look: CloserLook | None = None,
) -> list[Copy]:
    """All samples that repeat another one, in order. `near`: limits of similar images; None: find exact copies only.
    `look`: decides about images that are within the limits; None: they are copies.

    Similar images form groups, also through others between them; the first of a group is kept. Of two groups that
    mirror each other the one with a held-out sample is kept, else the one with more copies, else the earlier one: a
    mirrored copy is rarer than its original.
    """
    copies = _exact_copies(candidates)
    if near is not None:
        exact = UnionFind(len(candidates))
        for copy in copies:
            exact.join(copy.index, copy.original)
        firsts_N = exact.firsts(np.arange(len(candidates)))  # for each sample the one that it repeats, or itself
        has_images = candidates.has_images()
        compared = np.flatnonzero(has_images & (firsts_N == np.arange(len(candidates))))
        groups_N = _similar_groups(candidates, compared, near, search, look)
        mirrors = _mirrored_groups(candidates, compared, groups_N, near, search, look)
        sizes_N = np.bincount(groups_N[firsts_N[has_images]], minlength=len(candidates))
        dropped = _dropped_groups(mirrors, sizes_N, candidates)
        is_copy = (groups_N[compared] != compared) | np.isin(groups_N[compared], list(dropped))
        copies += _group_copies(compared[is_copy], groups_N, dropped)
    return resolve_to_kept(copies)


def _exact_copies(candidates: Candidates) -> list[Copy]:
    """Exact copies, each with the first earlier sample that it repeats."""
    copies = []
    is_left_N = np.ones(len(candidates), dtype=np.bool_)
    for reason in EXACT_REASONS:
        found, originals = candidates.exact_copies(reason, is_left_N)
        is_left_N[found] = False
        copies += [
            Copy(index=index, original=original, verdict="duplicate", reason=reason)
            for index, original in zip(found.tolist(), originals.tolist(), strict=True)
        ]
    return copies


def resolve_to_kept(copies: list[Copy]) -> list[Copy]:
    """The copies, each pointing to a kept sample, not to another copy; a copy of a mirrored image is mirrored too."""
    by_index = {copy.index: copy for copy in copies}
    resolved = []
    for copy in copies:
        last = copy
        while last.original in by_index:
            last = by_index[last.original]
        judged = last if last.verdict == "mirrored" else copy
        resolved.append(replace(copy, original=last.original, verdict=judged.verdict, reason=judged.reason))
    return sorted(resolved, key=lambda copy: copy.index)


def _similar_groups(
    candidates: Candidates, compared: Integers, limits: SimilarityLimits, search: PairSearch, look: CloserLook | None
) -> Integers:
    """For each sample the first of its group [N], itself if it was not compared. Images are compared slot by slot."""
    groups = UnionFind(len(candidates))
    hashes = candidates.phashes[candidates.starts[compared]]
    for i, j in _candidate_pairs(hashes, candidates.salts[compared], limits.phash_distance, search):
        index, other = int(compared[i]), int(compared[j])
        if groups.first(index) == groups.first(other) or not _are_similar(candidates, index, other, limits):
            continue
        if look is None or look.same(index, other, mirrored=False):
            groups.join(index, other)
    return groups.firsts(np.arange(len(candidates)))


def _mirrored_groups(
    candidates: Candidates,
    compared: Integers,
    groups_N: Integers,
    limits: SimilarityLimits,
    search: PairSearch,
    look: CloserLook | None,
) -> dict[int, set[int]]:
    """Groups that mirror each other: the first sample of each such group, with the firsts of its mirrored groups."""
    links: dict[int, set[int]] = {}
    indices = compared[candidates.with_mirrored[compared]]
    starts, salts = candidates.starts[indices], candidates.salts[indices]
    hashes, mirrored = candidates.phashes[starts], candidates.mirrored_phashes[starts]
    for i, j in _candidate_pairs_between(hashes, mirrored, salts, limits.phash_distance, search):
        index, other = int(indices[i]), int(indices[j])
        first, second = int(groups_N[index]), int(groups_N[other])
        if first == second or second in links.get(first, ()):
            continue
        if not _are_similar(candidates, index, other, limits, mirrored=True):
            continue
        if look is None or look.same(index, other, mirrored=True):
            links.setdefault(first, set()).add(second)
            links.setdefault(second, set()).add(first)
    return links


def _dropped_groups(
    mirrors: Mapping[int, set[int]], sizes_N: Integers, candidates: Candidates
) -> dict[int, tuple[int, str, str]]:
    """For the first sample of each mirrored group that is not kept: the kept sample, verdict and reason."""
    dropped: dict[int, tuple[int, str, str]] = {}
    seen: set[int] = set()
    for kept in sorted(mirrors, key=lambda first: (not candidates.held_out[first], -sizes_N[first], first)):
        if kept in seen:
            continue
        seen.add(kept)
        layer, flips = {kept}, 0
        while layer := {other for first in layer for other in mirrors[first]} - seen:
            seen |= layer
            flips += 1
            verdict = ("mirrored", "mirrored_image") if flips % 2 else ("near_duplicate", "similar_image")
            dropped.update({first: (kept, *verdict) for first in layer})
    return dropped


def _group_copies(indices: Integers, groups_N: Integers, dropped: Mapping[int, tuple[int, str, str]]) -> list[Copy]:
    copies = []
    for index in indices.tolist():
        first = int(groups_N[index])
        original, verdict, reason = dropped.get(first, (first, "near_duplicate", "similar_image"))
        copies.append(Copy(index=index, original=original, verdict=verdict, reason=reason))
    return copies


def _candidate_pairs(hashes: Hashes, salts: Hashes, distance: int, search: PairSearch) -> Iterator[tuple[int, int]]:
    """Pairs of positions with near hashes; of many equal hashes each is paired with the next few only.

    The nearest come first, as far as they are found together: a closer look ends after some that differ.
    """
    groups = _EqualHashes(hashes, salts)
    for group in groups.repeated():
        for start, position in enumerate(group, 1):
            for other in group[start : start + EQUALS_COMPARED]:
                yield position, other
    firsts = hashes[groups.firsts]
    found = search.within(firsts, salts[groups.firsts], distance)
    yield from _member_pairs((_nearest_first(pairs, firsts, firsts) for pairs in found), groups, groups)


def _candidate_pairs_between(
    hashes: Hashes, others: Hashes, salts: Hashes, distance: int, search: PairSearch
) -> Iterator[tuple[int, int]]:
    """Pairs of positions in `hashes` and in `others` with near hashes."""
    groups, other_groups = _EqualHashes(hashes, salts), _EqualHashes(others, salts)
    firsts, other_firsts = hashes[groups.firsts], others[other_groups.firsts]
    found = search.between(firsts, salts[groups.firsts], other_firsts, salts[other_groups.firsts], distance)
    nearest_first = (_nearest_first(pairs, firsts, other_firsts) for pairs in found)
    yield from _member_pairs(nearest_first, groups, other_groups)


def _nearest_first(pairs: Pairs, hashes: Hashes, others: Hashes) -> Pairs:
    distances = np.bitwise_count(hashes[pairs[:, 0]] ^ others[pairs[:, 1]])
    return pairs[np.argsort(distances, kind="stable")]


class _EqualHashes:
    """Positions grouped by hash and salt; groups are numbered in the order of both."""

    def __init__(self, hashes: Hashes, salts: Hashes) -> None:
        salted = hashes ^ salts
        self._order = np.argsort(salted, kind="stable")
        _, starts = np.unique(salted[self._order], return_index=True)
        self._bounds = np.append(starts, len(salted))
        self.firsts = self._order[starts]  # a position of each group

    def first_few(self, group: int) -> list[int]:
        """The positions of a group, at most `EQUALS_COMPARED` of them."""
        start, stop = int(self._bounds[group]), int(self._bounds[group + 1])
        return self._order[start : min(stop, start + EQUALS_COMPARED)].tolist()

    def repeated(self) -> Iterator[list[int]]:
        """All positions of each group that has more than one."""
        for group in np.flatnonzero(np.diff(self._bounds) > 1).tolist():
            yield self._order[self._bounds[group] : self._bounds[group + 1]].tolist()


def _member_pairs(found: Iterator[Pairs], left: _EqualHashes, right: _EqualHashes) -> Iterator[tuple[int, int]]:
    for pairs in found:
        for left_group, right_group in pairs.tolist():
            yield from itertools.product(left.first_few(left_group), right.first_few(right_group))


def _are_similar(
    candidates: Candidates, index: int, other: int, limits: SimilarityLimits, *, mirrored: bool = False
) -> bool:
    """Whether two samples are similar image by image. `mirrored`: those of the second with left and right swapped."""
    if candidates.salts[index] != candidates.salts[other]:
        return False
    images, other_images = (slice(*candidates.starts[sample : sample + 2].tolist()) for sample in (index, other))
    hashes = candidates.mirrored_phashes if mirrored else candidates.phashes
    if (np.bitwise_count(candidates.phashes[images] ^ hashes[other_images]) > limits.phash_distance).any():
        return False
    miniatures = candidates.miniatures[other_images, :, ::-1] if mirrored else candidates.miniatures[other_images]
    difference = np.abs(candidates.miniatures[images].astype(np.int16) - miniatures)
    return bool((difference.mean(axis=(1, 2, 3)) <= limits.colour_distance).all())
