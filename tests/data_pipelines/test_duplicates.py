"""Copies among samples: the search is exact, groups keep their first, partitions keep apart."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.duplicates import Candidate, Copy, find_copies, near_pairs

GREY = bytes([120]) * 192


def candidate(
    name: str, phash: int = 0, *, partition: str = "", file: str = "", pixels: str = "", look: bytes = GREY
) -> Candidate:
    return Candidate(
        sample_id=name, partition=partition, file_digests=(file or name,), pixel_digests=(pixels or name,),
        phashes=(phash,), miniatures=(look,),
    )  # fmt: skip


def copies(*candidates: Candidate, distance: int = 10) -> list[Copy]:
    return find_copies(candidates, near=True, phash_distance=distance, colour_distance=20)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 15))
def test_the_search_finds_exactly_the_near_pairs(seed: int, distance: int) -> None:
    rng = random.Random(seed)
    centres = [rng.getrandbits(64) for _ in range(6)]
    values = {
        rng.choice(centres) ^ sum(1 << rng.randrange(64) for _ in range(rng.randrange(12))) & (2**64 - 1)
        for _ in range(60)
    }
    hashes = np.array(sorted(values), dtype=np.uint64)
    found = {tuple(sorted(pair)) for pairs in near_pairs(hashes, distance) for pair in pairs.tolist()}
    expected = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= distance
    }
    assert found == expected


def test_the_first_of_a_group_is_kept_and_all_others_point_at_it() -> None:
    base = 0xDEADBEEF12345678
    found = copies(
        candidate("a", base),
        candidate("b", base ^ 0xFF),
        candidate("c", base ^ 0xFFFF),
        candidate("d", ~base & (2**64 - 1)),
    )
    assert [(copy.index, copy.original, copy.verdict) for copy in found] == [
        (1, 0, "near_duplicate"),
        (2, 0, "near_duplicate"),
    ]


def test_exact_copies_come_before_similar_ones() -> None:
    found = copies(
        candidate("a", 1),
        candidate("a", 1),
        candidate("b", 1, file="a"),
        candidate("c", 1, pixels="a"),
        candidate("e", 3),
    )
    assert [copy.reason for copy in found] == ["same_record", "same_bytes", "same_pixels", "similar_picture"]
    assert {copy.original for copy in found} == {0}


def test_a_copy_of_a_copy_points_at_the_one_that_is_kept() -> None:
    found = copies(candidate("a", 0), candidate("b", 1), candidate("b", 1))
    assert [(copy.index, copy.original) for copy in found] == [(1, 0), (2, 0)]


def test_other_partitions_colours_and_numbers_of_pictures_keep_apart() -> None:
    two = Candidate(
        sample_id="e",
        partition="",
        file_digests=("e", "f"),
        pixel_digests=("e", "f"),
        phashes=(0, 0),
        miniatures=(GREY, GREY),
    )
    assert copies(candidate("a"), candidate("b", partition="p"), candidate("c", look=bytes([200]) * 192), two) == []


def test_many_samples_with_one_hash_end_in_one_group() -> None:
    found = copies(*(candidate(f"{number}", 77) for number in range(500)))
    assert len(found) == 499
    assert {copy.original for copy in found} == {0}


def test_text_samples_are_only_compared_as_records() -> None:
    text = [
        Candidate(sample_id=name, partition="", file_digests=(), pixel_digests=(), phashes=(), miniatures=())
        for name in "aba"
    ]
    assert [(copy.index, copy.reason) for copy in copies(*text)] == [(2, "same_record")]


@pytest.mark.slow
def test_a_million_hashes_are_searched_in_minutes() -> None:
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**64, 1_000_000, dtype=np.uint64))
    planted = hashes[::1000] ^ np.uint64(0b1011)
    found = np.concatenate(list(near_pairs(np.concatenate([hashes, planted]), 10)))
    assert set(range(len(hashes), len(hashes) + len(planted))) <= set(found[:, 1].tolist()) | set(found[:, 0].tolist())
