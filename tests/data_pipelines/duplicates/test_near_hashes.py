"""The search for near hashes is exact, for every distance and size of its buckets."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.duplicates import near_hashes
from data_pipelines.duplicates.near_hashes import HashLookup, near_pairs, near_pairs_between, search_tasks


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 15), st.integers(0, 3))
def test_the_search_finds_exactly_the_near_pairs(seed: int, distance: int, slices: int) -> None:
    """Few hashes are all compared with each other, unless the tasks of the search are given."""
    tasks = search_tasks(distance, slices) if slices else None
    rng = random.Random(seed)
    centres = [rng.getrandbits(64) for _ in range(6)]
    values = {
        rng.choice(centres) ^ sum(1 << rng.randrange(64) for _ in range(rng.randrange(12))) & (2**64 - 1)
        for _ in range(60)
    }
    hashes = np.array(sorted(values), dtype=np.uint64)
    found = {tuple(sorted(pair)) for pairs in near_pairs(hashes, distance, tasks) for pair in pairs.tolist()}
    expected = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= distance
    }
    assert found == expected
    others = np.array([*rng.sample(sorted(values), len(values) // 2), rng.getrandbits(64)], dtype=np.uint64)
    search = near_pairs_between(hashes, others, distance, tasks)
    assert {tuple(pair) for pairs in search for pair in pairs.tolist()} == {
        (i, j)
        for i in range(len(hashes))
        for j in range(len(others))
        if (int(hashes[i]) ^ int(others[j])).bit_count() <= distance
    }


@pytest.mark.parametrize("part", range(4))
def test_crowded_parts_are_searched_to_their_end(part: int) -> None:
    rng = np.random.default_rng(part)
    same = np.uint64(0xFFFF << 16 * part)
    crowd = np.unique((rng.integers(0, 2**64, 3000, dtype=np.uint64) & ~same) | np.uint64(0x1234 << 16 * part))
    lonely = crowd[::50] ^ np.uint64(0b11 << 16 * part) ^ np.uint64(1 << (16 * part + 20) % 64)
    hashes = np.concatenate([crowd, lonely])
    found = {tuple(sorted(pair)) for pairs in near_pairs(hashes, 10) for pair in pairs.tolist()}
    assert {(50 * index, len(crowd) + index) for index in range(len(lonely))} <= found
    assert all(i != j for i, j in found)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 20), st.sampled_from([1, 2000, 1 << 22]), st.sampled_from([1, 7, 1 << 15]))
def test_the_lookup_finds_exactly_the_near_pairs(seed: int, distance: int, max_filed: int, at_once: int) -> None:
    rng = random.Random(seed)
    centres = [rng.getrandbits(64) for _ in range(4)]
    values = [rng.choice(centres) ^ sum(1 << rng.randrange(64) for _ in range(rng.randrange(9))) for _ in range(40)]
    hashes = np.array([value & (2**64 - 1) for value in values], dtype=np.uint64)
    known, queries = np.unique(hashes[:15]), hashes[15:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_hashes, "MAX_FILED", max_filed)
        patch.setattr(near_hashes, "POSITIONS_AT_ONCE", at_once)
        found = HashLookup(known, distance).near(queries)
    bits = np.bitwise_count(queries[:, None] ^ known[None, :])
    expected = np.argwhere(bits <= distance)
    assert np.stack([found.positions, found.known], axis=1).tolist() == expected.tolist()
    assert found.distances.tolist() == bits[bits <= distance].tolist()


def test_nothing_is_near_no_hashes() -> None:
    none = np.zeros(0, np.uint64)
    assert len(HashLookup(none, 3).near(np.array([1, 2], np.uint64)).positions) == 0
    assert len(HashLookup(np.array([1, 2], np.uint64), 3).near(none).positions) == 0


@pytest.mark.slow
def test_a_million_hashes_are_searched_in_minutes() -> None:
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**64, 1_000_000, dtype=np.uint64))
    planted = hashes[::1000] ^ np.uint64(0b1011)
    found = np.concatenate(list(near_pairs(np.concatenate([hashes, planted]), 10)))
    assert set(range(len(hashes), len(hashes) + len(planted))) <= set(found[:, 1].tolist()) | set(found[:, 0].tolist())
