"""Finds copies among all samples of a dataset: the same record, the same picture, or pictures that look the same.

Near-duplicates are found by an exact search over 64-bit hashes: two hashes at most d bits apart agree within d // 4
bits in at least one of their four 16-bit parts, so only such pairs are compared.
Source: multi-index hashing, Norouzi, Punjani and Fleet, arXiv 1307.2982.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]  # [N, 2]

EQUALS_COMPARED = 32  # of many samples with one hash, each is compared with this many others
PAIRS_AT_ONCE = 1 << 22  # candidates compared in one go: 200 MB at most


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A sample that passed all other checks, in the order in which the first of several copies is kept."""

    sample_id: str
    partition: str  # only samples of one partition are compared
    file_digests: tuple[str, ...]  # of its pictures
    pixel_digests: tuple[str, ...]
    phashes: tuple[int, ...]
    miniatures: tuple[bytes, ...]  # 8 x 8 RGB


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Candidate `index` repeats candidate `original`, which is kept."""

    index: int
    original: int
    verdict: str  # "duplicate" or "near_duplicate"
    reason: str  # "same_record", "same_bytes", "same_pixels" or "similar_picture"


def find_copies(
    candidates: Sequence[Candidate], *, near: bool, phash_distance: int, colour_distance: float
) -> list[Copy]:
    """All samples that repeat an earlier one, in order.

    Similar pictures form groups, also through others between them; the first of a group is kept.
    """
    copies: list[Copy] = []
    left = list(range(len(candidates)))
    for reason in ("same_record", "same_bytes", "same_pixels"):
        first: dict[object, int] = {}
        kept = []
        for index in left:
            key = _exact_key(candidates[index], reason)
            original = first.setdefault(key, index) if key is not None else index
            if original == index:
                kept.append(index)
            else:
                copies.append(Copy(index=index, original=original, verdict="duplicate", reason=reason))
        left = kept
    if near:
        pictured = [index for index in left if candidates[index].phashes]
        copies += _similar(candidates, pictured, phash_distance, colour_distance)
    return _towards_kept(copies)


def _exact_key(candidate: Candidate, reason: str) -> object:
    if reason == "same_record":
        return candidate.sample_id
    digests = candidate.file_digests if reason == "same_bytes" else candidate.pixel_digests
    return (candidate.partition, digests) if digests else None


def _towards_kept(copies: list[Copy]) -> list[Copy]:
    """Point every copy at a sample that is kept, not at another copy."""
    originals = {copy.index: copy.original for copy in copies}

    def kept(index: int) -> int:
        while index in originals:
            index = originals[index]
        return index

    moved = (
        Copy(index=copy.index, original=kept(copy.original), verdict=copy.verdict, reason=copy.reason)
        for copy in copies
    )
    return sorted(moved, key=lambda copy: copy.index)


def _similar(
    candidates: Sequence[Candidate], indices: Sequence[int], phash_distance: int, colour_distance: float
) -> list[Copy]:
    """Groups of similar samples among `indices`: all pictures of the one against those of the other, slot by slot."""
    if len(indices) < 2:
        return []
    salts = [hash_of_text(f"{candidates[i].partition}/{len(candidates[i].phashes)}") for i in indices]
    hashes = np.array([candidates[i].phashes[0] for i in indices], dtype=np.uint64) ^ np.array(salts, dtype=np.uint64)
    parents = list(range(len(indices)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for one, other in _compared(hashes, phash_distance):
        first, second = root(one), root(other)
        if first != second and _look_alike(
            candidates[indices[one]], candidates[indices[other]], phash_distance, colour_distance
        ):
            parents[max(first, second)] = min(first, second)
    return [
        Copy(index=indices[i], original=indices[root(i)], verdict="near_duplicate", reason="similar_picture")
        for i in range(len(indices))
        if root(i) != i
    ]


def _compared(hashes: Hashes, distance: int) -> Iterator[tuple[int, int]]:
    """Places whose pictures are worth a closer look: near hashes, and of many equal ones each with the next few."""
    order = np.argsort(hashes, kind="stable")
    unique, starts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    groups = [order[start : start + count].tolist() for start, count in zip(starts, counts, strict=True)]
    for group in groups:
        for place, one in enumerate(group):
            for other in group[place + 1 : place + 1 + EQUALS_COMPARED]:
                yield one, other
    for pairs in near_pairs(unique, distance):
        for low, high in pairs.tolist():
            yield from itertools.product(groups[low][:EQUALS_COMPARED], groups[high][:EQUALS_COMPARED])


def hash_of_text(text: str) -> int:
    """64 bits that keep hashes of different partitions apart when xor-ed to them, and distances within one."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _look_alike(one: Candidate, other: Candidate, phash_distance: int, colour_distance: float) -> bool:
    if one.partition != other.partition or len(one.phashes) != len(other.phashes):
        return False
    if any((a ^ b).bit_count() > phash_distance for a, b in zip(one.phashes, other.phashes, strict=True)):
        return False
    return all(
        np.abs(np.frombuffer(a, np.uint8).astype(np.int16) - np.frombuffer(b, np.uint8)).mean() <= colour_distance
        for a, b in zip(one.miniatures, other.miniatures, strict=True)
    )


def near_pairs(hashes: Hashes, distance: int) -> Iterator[Pairs]:
    """All pairs of places (i, j) of distinct hashes at most `distance` bits apart, some of them more than once."""
    for part in range(4):
        keys = ((hashes >> np.uint64(16 * part)) & np.uint64(0xFFFF)).astype(np.int64)
        for low, high in _agreeing(keys, distance // 4):
            close = np.bitwise_count(hashes[low] ^ hashes[high]) <= distance
            if close.any():
                yield np.stack([low[close], high[close]], axis=1)


def _agreeing(keys: Pairs, radius: int) -> Iterator[tuple[Pairs, Pairs]]:
    """Pairs of places whose 16-bit keys differ in at most `radius` bits, in blocks of bounded size."""
    order = np.argsort(keys, kind="stable").astype(np.int64)
    bounds = np.searchsorted(keys[order], np.arange(65537))
    sorted_keys = keys[order]
    for flips in range(radius + 1):
        for bits in itertools.combinations(range(16), flips):
            mask = sum(1 << bit for bit in bits)
            if mask:
                chosen = np.flatnonzero(sorted_keys & (1 << bits[-1]) == 0)  # each pair of buckets once
                start, stop = bounds[sorted_keys[chosen] ^ mask], bounds[(sorted_keys[chosen] ^ mask) + 1]
            else:
                chosen = np.arange(len(keys))
                start, stop = chosen + 1, bounds[sorted_keys + 1]
            for block in _blocks(chosen, start, stop):
                yield order[block[0]], order[block[1]]


def _blocks(chosen: Pairs, start: Pairs, stop: Pairs) -> Iterator[tuple[Pairs, Pairs]]:
    """Every chosen place with every place in its range, at most about `PAIRS_AT_ONCE` at a time."""
    lengths = stop - start
    chosen, start, lengths = chosen[lengths > 0], start[lengths > 0], lengths[lengths > 0]
    ends = np.cumsum(lengths)
    first = 0
    while first < len(chosen):
        base = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, base + PAIRS_AT_ONCE, side="right")))
        sizes = lengths[first:last]
        low = np.repeat(chosen[first:last], sizes)
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield low, np.repeat(start[first:last], sizes) + within
        first = last
