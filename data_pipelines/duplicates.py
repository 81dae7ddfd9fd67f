"""Finds copies among all samples of a dataset: the same record or picture, pictures that look the same, or mirrored.

Of each set of copies one sample is kept, and all others point at it.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from data_pipelines.near_hashes import Hashes, Pairs, near_pairs, near_pairs_between

EQUALS_COMPARED = 32  # of many samples with one hash, each is compared with this many others


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A sample that passed all other checks, in the order in which the first of several copies is kept."""

    sample_id: str
    partition: str  # only samples of one partition are compared
    file_digests: tuple[str, ...]  # of its pictures
    pixel_digests: tuple[str, ...]  # see `images.ImageFacts`
    phashes: tuple[int, ...]
    miniatures: tuple[bytes, ...]  # 8 x 8 RGB
    mirrored_phashes: tuple[int, ...] = ()  # of the same pictures with left and right swapped; (): not looked for
    held_out: bool = False  # of the validation split: kept whatever else repeats it


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


def find_copies(
    candidates: Sequence[Candidate], *, near: Likeness | None, search: PairSearch = PLAIN_SEARCH
) -> list[Copy]:
    """All samples that repeat another one, in order; `near`: None finds exact copies only.

    Similar pictures form groups, also through others between them; the first of a group is kept. Of two groups that
    mirror each other the one with a held-out sample is kept, else the one with more copies, else the earlier one: a
    flipped copy is rarer than its original.
    """
    originals, reasons = _exact_copies(candidates)
    copies = [
        Copy(index=index, original=original, verdict="duplicate", reason=reasons[index])
        for index, original in originals.items()
    ]
    if near is not None:
        pictured = [i for i, candidate in enumerate(candidates) if i not in originals and candidate.phashes]
        groups = _similar_groups(candidates, pictured, near, search)
        mirrors = _mirrored_groups(candidates, groups, near, search)
        sizes = Counter(groups[_follow(originals, i)] for i, candidate in enumerate(candidates) if candidate.phashes)
        copies += _group_copies(groups, _kept_sides(mirrors, sizes, candidates))
    return towards_kept(copies)


def _exact_copies(candidates: Sequence[Candidate]) -> tuple[dict[int, int], dict[int, str]]:
    """The earlier sample that each exact copy repeats, and in what it is the same."""
    originals: dict[int, int] = {}
    reasons: dict[int, str] = {}
    for reason in ("same_record", "same_bytes", "same_pixels"):
        first: dict[object, int] = {}
        for index, candidate in enumerate(candidates):
            key = _exact_key(candidate, reason) if index not in originals else None
            original = first.setdefault(key, index) if key is not None else index
            if original != index:
                originals[index], reasons[index] = original, reason
    return originals, reasons


def _follow(originals: Mapping[int, int], index: int) -> int:
    while index in originals:
        index = originals[index]
    return index


def _exact_key(candidate: Candidate, reason: str) -> object:
    if reason == "same_record":
        return candidate.sample_id
    digests = candidate.file_digests if reason == "same_bytes" else candidate.pixel_digests
    return (candidate.partition, digests) if digests else None


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


def _similar_groups(
    candidates: Sequence[Candidate], indices: Sequence[int], limits: Likeness, search: PairSearch
) -> dict[int, int]:
    """The first sample of the group of each of `indices`; pictures are compared slot by slot."""
    parents = {index: index for index in indices}

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    hashes = _first_hashes(candidates, indices, mirrored=False)
    for one, other in _compared(hashes, _salts(candidates, indices), limits.phash_distance, search):
        first, second = root(indices[one]), root(indices[other])
        if first != second and _look_alike(candidates[indices[one]], candidates[indices[other]], limits):
            parents[max(first, second)] = min(first, second)
    return {index: root(index) for index in indices}


def _mirrored_groups(
    candidates: Sequence[Candidate], groups: Mapping[int, int], limits: Likeness, search: PairSearch
) -> dict[int, set[int]]:
    """For the first sample of each group that has a mirror image: the firsts of the groups that show it."""
    links: dict[int, set[int]] = {}
    indices = [index for index in groups if candidates[index].mirrored_phashes]
    hashes = _first_hashes(candidates, indices, mirrored=False)
    flipped = _first_hashes(candidates, indices, mirrored=True)
    for one, other in _compared_between(hashes, flipped, _salts(candidates, indices), limits.phash_distance, search):
        first, second = groups[indices[one]], groups[indices[other]]
        if first == second or second in links.get(first, ()):
            continue
        if _look_alike(candidates[indices[one]], _flipped(candidates[indices[other]]), limits):
            links.setdefault(first, set()).add(second)
            links.setdefault(second, set()).add(first)
    return links


def _kept_sides(
    mirrors: Mapping[int, set[int]], sizes: Mapping[int, int], candidates: Sequence[Candidate]
) -> dict[int, tuple[int, str, str]]:
    """For the first sample of each group that is not kept: the one that is, verdict and reason."""
    moved: dict[int, tuple[int, str, str]] = {}
    seen: set[int] = set()
    for start in sorted(mirrors, key=lambda first: (not candidates[first].held_out, -sizes[first], first)):
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


def _group_copies(groups: Mapping[int, int], moved: Mapping[int, tuple[int, str, str]]) -> list[Copy]:
    copies = []
    for index, first in groups.items():
        original, verdict, reason = moved.get(first, (first, "near_duplicate", "similar_picture"))
        if original != index:
            copies.append(Copy(index=index, original=original, verdict=verdict, reason=reason))
    return copies


def _first_hashes(candidates: Sequence[Candidate], indices: Sequence[int], *, mirrored: bool) -> Hashes:
    """Of first pictures."""
    chosen = (candidates[index] for index in indices)
    hashes = ((one.mirrored_phashes if mirrored else one.phashes)[0] for one in chosen)
    return np.fromiter(hashes, np.uint64, len(indices))


def _salts(candidates: Sequence[Candidate], indices: Sequence[int]) -> Hashes:
    """What keeps samples apart whose partition or number of pictures differs."""
    chosen = (candidates[index] for index in indices)
    return np.fromiter((hash_of_text(f"{one.partition}/{len(one.phashes)}") for one in chosen), np.uint64, len(indices))


def _compared(hashes: Hashes, salts: Hashes, distance: int, search: PairSearch) -> Iterator[tuple[int, int]]:
    """Places whose pictures are worth a closer look: near hashes, and of many equal ones each with the next few."""
    groups = _equal(hashes, salts)
    for group in groups:
        for place, one in enumerate(group):
            for other in group[place + 1 : place + 1 + EQUALS_COMPARED]:
                yield one, other
    firsts = [group[0] for group in groups]
    yield from _members(search.within(hashes[firsts], salts[firsts], distance), groups, groups)


def _compared_between(
    hashes: Hashes, others: Hashes, salts: Hashes, distance: int, search: PairSearch
) -> Iterator[tuple[int, int]]:
    """Places in `hashes` and in `others` whose pictures are worth a closer look."""
    groups, other_groups = _equal(hashes, salts), _equal(others, salts)
    firsts, other_firsts = [group[0] for group in groups], [group[0] for group in other_groups]
    found = search.between(hashes[firsts], salts[firsts], others[other_firsts], salts[other_firsts], distance)
    yield from _members(found, groups, other_groups)


def _equal(hashes: Hashes, salts: Hashes) -> list[list[int]]:
    """The places of each hash and salt, in order of both."""
    salted = hashes ^ salts
    order = np.argsort(salted, kind="stable")
    _, starts = np.unique(salted[order], return_index=True)
    return [group.tolist() for group in np.split(order, starts[1:])] if len(salted) else []


def _members(
    found: Iterator[Pairs], groups: Sequence[Sequence[int]], other_groups: Sequence[Sequence[int]]
) -> Iterator[tuple[int, int]]:
    for pairs in found:
        for low, high in pairs.tolist():
            yield from itertools.product(groups[low][:EQUALS_COMPARED], other_groups[high][:EQUALS_COMPARED])


def hash_of_text(text: str) -> int:
    """64 bits that keep hashes of different partitions apart when xor-ed to them, and distances within one."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _look_alike(one: Candidate, other: Candidate, limits: Likeness) -> bool:
    if one.partition != other.partition or len(one.phashes) != len(other.phashes):
        return False
    if any((a ^ b).bit_count() > limits.phash_distance for a, b in zip(one.phashes, other.phashes, strict=True)):
        return False
    return all(
        np.abs(np.frombuffer(a, np.uint8).astype(np.int16) - np.frombuffer(b, np.uint8)).mean()
        <= limits.colour_distance
        for a, b in zip(one.miniatures, other.miniatures, strict=True)
    )


def _flipped(candidate: Candidate) -> Candidate:
    """The same sample with left and right of its pictures swapped."""
    miniatures = tuple(
        np.frombuffer(small, np.uint8).reshape(8, 8, 3)[:, ::-1].tobytes() for small in candidate.miniatures
    )
    return replace(candidate, phashes=candidate.mirrored_phashes, miniatures=miniatures)
