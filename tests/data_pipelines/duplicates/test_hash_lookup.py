"""The lookup of near hashes is exact, for every distance and table size."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.duplicates import hash_lookup
from data_pipelines.duplicates.hash_lookup import HashLookup, expand_ranges


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 15), st.sampled_from([1, 2000, 1 << 24]), st.sampled_from([1, 7, 1 << 21]))
def test_the_lookup_finds_exactly_the_near_pairs(seed: int, distance: int, max_table: int, at_once: int) -> None:
    rng = random.Random(seed)
    centres = [rng.getrandbits(64) for _ in range(4)]
    values = [rng.choice(centres) ^ sum(1 << rng.randrange(64) for _ in range(rng.randrange(9))) for _ in range(40)]
    hashes = np.array([value & (2**64 - 1) for value in values], dtype=np.uint64)
    known, queries = np.unique(hashes[:15]), hashes[15:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_lookup, "MAX_TABLE", max_table)
        patch.setattr(hash_lookup, "PAIRS_AT_ONCE", at_once)
        found = HashLookup(known, distance).near(queries)
    bits = np.bitwise_count(queries[:, None] ^ known[None, :])
    expected = np.argwhere(bits <= distance)
    assert np.stack([found.positions, found.known], axis=1).tolist() == expected.tolist()
    assert found.distances.tolist() == bits[bits <= distance].tolist()


def test_nothing_is_near_no_hashes() -> None:
    none = np.zeros(0, np.uint64)
    assert len(HashLookup(none, 3).near(np.array([1, 2], np.uint64)).positions) == 0
    assert len(HashLookup(np.array([1, 2], np.uint64), 3).near(none).positions) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=20), st.integers(1, 9))
def test_ranges_are_expanded_in_order(ranges: list[tuple[int, int]], at_once: int) -> None:
    starts, counts = (np.array([pair[side] for pair in ranges], dtype=np.int64) for side in range(2))
    parts = list(expand_ranges(starts, counts, at_once))
    found = [pair for indices, numbers in parts for pair in zip(indices.tolist(), numbers.tolist(), strict=True)]
    assert found == [(i, start + step) for i, (start, count) in enumerate(ranges) for step in range(count)]
    longest = max((count for _, count in ranges), default=0)
    assert all(len(indices) <= max(at_once, longest) for indices, _ in parts)
