"""Copies among samples: the search is exact, groups keep their first, partitions keep apart."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.duplicates.candidates import Candidate, Candidates
from data_pipelines.duplicates.near_hashes import near_pairs, near_pairs_between, pieces
from data_pipelines.duplicates.search import Copy, Likeness, find_copies

GREY = bytes([120]) * 192


def candidate(
    name: str, phash: int = 0, *, partition: str = "", file: str = "", pixels: str = "", look: bytes = GREY
) -> Candidate:
    return Candidate(
        sample_id=name, partition=partition, file_digests=(file or name,), pixel_digests=(pixels or name,),
        phashes=(phash,), miniatures=(look,),
    )  # fmt: skip


def copies(*candidates: Candidate, distance: int = 10) -> list[Copy]:
    return find_copies(Candidates(candidates), near=Likeness(phash_distance=distance, colour_distance=20))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 15), st.integers(0, 3))
def test_the_search_finds_exactly_the_near_pairs(seed: int, distance: int, slices: int) -> None:
    """Few hashes are compared all with all, unless the search is told its pieces."""
    made = pieces(distance, slices) if slices else None
    rng = random.Random(seed)
    centres = [rng.getrandbits(64) for _ in range(6)]
    values = {
        rng.choice(centres) ^ sum(1 << rng.randrange(64) for _ in range(rng.randrange(12))) & (2**64 - 1)
        for _ in range(60)
    }
    hashes = np.array(sorted(values), dtype=np.uint64)
    found = {tuple(sorted(pair)) for pairs in near_pairs(hashes, distance, made) for pair in pairs.tolist()}
    expected = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= distance
    }
    assert found == expected
    others = np.array([*rng.sample(sorted(values), len(values) // 2), rng.getrandbits(64)], dtype=np.uint64)
    search = near_pairs_between(hashes, others, distance, made)
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
    assert {(50 * place, len(crowd) + place) for place in range(len(lonely))} <= found
    assert all(one != other for one, other in found)


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


LEFT, RIGHT = 0x00FF00FF12345678, 0xFF00FF0087654321  # hashes of a picture and of its mirror image
SHADED = bytes(20 * column for _ in range(8) for column in range(8) for _ in range(3))
DEHSAD = bytes(20 * (7 - column) for _ in range(8) for column in range(8) for _ in range(3))


def sided(name: str, *, left: bool, held_out: bool = False, file: str = "", look: bytes = b"") -> Candidate:
    plain = candidate(name, LEFT if left else RIGHT, file=file, look=look or (SHADED if left else DEHSAD))
    return replace(plain, mirrored_phashes=(RIGHT if left else LEFT,), held_out=held_out)


def verdicts(*candidates: Candidate) -> list[tuple[int, int, str]]:
    return [(copy.index, copy.original, copy.verdict) for copy in copies(*candidates)]


def test_a_mirrored_picture_has_its_own_verdict_and_the_earlier_is_kept() -> None:
    assert verdicts(sided("a", left=True), sided("b", left=False)) == [(1, 0, "mirrored")]


def test_the_side_with_more_copies_is_kept_and_copies_of_the_other_are_mirrored_too() -> None:
    a, b, c, d, e = (sided(name, left=name in "ab", file=name.replace("b", "a")) for name in "abcde")
    found = verdicts(a, b, c, d, e)
    assert found == [(0, 2, "mirrored"), (1, 2, "mirrored"), (3, 2, "near_duplicate"), (4, 2, "near_duplicate")]


def test_the_side_of_a_held_out_sample_is_kept() -> None:
    kept = sided("v", left=False, held_out=True)
    assert verdicts(kept, sided("a", left=True), sided("b", left=True)) == [(1, 0, "mirrored"), (2, 0, "mirrored")]


def test_mirror_images_need_mirrored_colours_and_are_not_looked_for_without_their_hashes() -> None:
    assert verdicts(sided("a", left=True), sided("b", left=False, look=SHADED)) == []
    plain = [replace(sided(name, left=name == "a"), mirrored_phashes=()) for name in "ab"]
    assert verdicts(*plain) == []


def test_symmetrical_pictures_are_ordinary_near_duplicates() -> None:
    pair = [replace(candidate(name, 5), mirrored_phashes=(5,)) for name in "ab"]
    assert verdicts(*pair) == [(1, 0, "near_duplicate")]


@pytest.mark.slow
def test_a_million_hashes_are_searched_in_minutes() -> None:
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**64, 1_000_000, dtype=np.uint64))
    planted = hashes[::1000] ^ np.uint64(0b1011)
    found = np.concatenate(list(near_pairs(np.concatenate([hashes, planted]), 10)))
    assert set(range(len(hashes), len(hashes) + len(planted))) <= set(found[:, 1].tolist()) | set(found[:, 0].tolist())
