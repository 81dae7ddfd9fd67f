"""Copies among samples: groups keep their first, partitions are separate."""

from dataclasses import replace

from data_pipelines.duplicates.candidates import Candidate, Candidates
from data_pipelines.duplicates.search import Copy, SimilarityLimits, find_copies

GREY = bytes([120]) * 192


def candidate(
    name: str, phash: int = 0, *, partition: str = "", file: str = "", pixels: str = "", look: bytes = GREY
) -> Candidate:
    return Candidate(
        sample_id=name, partition=partition, file_digests=(file or name,), pixel_digests=(pixels or name,),
        phashes=(phash,), miniatures=(look,),
    )  # fmt: skip


def copies(*candidates: Candidate, distance: int = 10) -> list[Copy]:
    return find_copies(Candidates(candidates), near=SimilarityLimits(phash_distance=distance, colour_distance=20))


def test_the_first_of_a_group_is_kept_and_all_others_point_to_it() -> None:
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
    assert [copy.reason for copy in found] == ["same_record", "same_bytes", "same_pixels", "similar_image"]
    assert {copy.original for copy in found} == {0}


def test_a_copy_of_a_copy_points_to_the_kept_sample() -> None:
    found = copies(candidate("a", 0), candidate("b", 1), candidate("b", 1))
    assert [(copy.index, copy.original) for copy in found] == [(1, 0), (2, 0)]


def test_other_partitions_colours_and_numbers_of_images_are_no_copies() -> None:
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


LEFT, RIGHT = 0x00FF00FF12345678, 0xFF00FF0087654321  # hashes of an image and of its mirror image
SHADED = bytes(20 * column for _ in range(8) for column in range(8) for _ in range(3))
DEHSAD = bytes(20 * (7 - column) for _ in range(8) for column in range(8) for _ in range(3))


def sided(name: str, *, left: bool, held_out: bool = False, file: str = "", look: bytes = b"") -> Candidate:
    plain = candidate(name, LEFT if left else RIGHT, file=file, look=look or (SHADED if left else DEHSAD))
    return replace(plain, mirrored_phashes=(RIGHT if left else LEFT,), held_out=held_out)


def verdicts(*candidates: Candidate) -> list[tuple[int, int, str]]:
    return [(copy.index, copy.original, copy.verdict) for copy in copies(*candidates)]


def test_a_mirrored_image_has_its_own_verdict_and_the_earlier_is_kept() -> None:
    assert verdicts(sided("a", left=True), sided("b", left=False)) == [(1, 0, "mirrored")]


def test_the_side_with_more_copies_is_kept_and_copies_of_the_other_are_mirrored_too() -> None:
    a, b, c, d, e = (sided(name, left=name in "ab", file=name.replace("b", "a")) for name in "abcde")
    found = verdicts(a, b, c, d, e)
    assert found == [(0, 2, "mirrored"), (1, 2, "mirrored"), (3, 2, "near_duplicate"), (4, 2, "near_duplicate")]


def test_the_side_of_a_held_out_sample_is_kept() -> None:
    kept = sided("v", left=False, held_out=True)
    assert verdicts(kept, sided("a", left=True), sided("b", left=True)) == [(1, 0, "mirrored"), (2, 0, "mirrored")]


def test_mirror_images_need_mirrored_colours_and_are_not_searched_for_without_their_hashes() -> None:
    assert verdicts(sided("a", left=True), sided("b", left=False, look=SHADED)) == []
    plain = [replace(sided(name, left=name == "a"), mirrored_phashes=()) for name in "ab"]
    assert verdicts(*plain) == []


def test_symmetrical_images_are_ordinary_near_duplicates() -> None:
    pair = [replace(candidate(name, 5), mirrored_phashes=(5,)) for name in "ab"]
    assert verdicts(*pair) == [(1, 0, "near_duplicate")]
