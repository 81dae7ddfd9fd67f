"""Samples with near embeddings form groups, also through others between them, within their partition."""

import numpy as np
import pytest

from data_pipelines.duplicates.candidates import Candidate, Candidates
from data_pipelines.duplicates.near_vectors import Vectors
from data_pipelines.duplicates.search import Copy
from data_pipelines.duplicates.semantic import add_semantic_copies, group_by_meaning


def at_angle(degrees: float) -> Vectors:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float16)


def candidates(partitions: str, num_images: int = 1) -> Candidates:
    return Candidates(
        Candidate(
            sample_id=f"{index}",
            partition=partition,
            file_digests=tuple(f"{index}/{slot}" for slot in range(num_images)),
            pixel_digests=(),
            phashes=(),
            miniatures=(),
        )
        for index, partition in enumerate(partitions)
    )


def originals(copies: list[Copy]) -> dict[int, int]:
    return {copy.index: copy.original for copy in copies}


def test_groups_form_through_samples_between_and_keep_their_first() -> None:
    vectors = np.stack([at_angle(angle) for angle in (0, 50, 8, 16, 58)])[:, None]
    assert group_by_meaning(vectors, 0.02).tolist() == [0, 1, 0, 0, 1]  # 0.02 of cosine are 11.5 degrees


def test_copies_are_found_within_a_partition_and_unknown_embeddings_are_skipped() -> None:
    embeddings = [[at_angle(0)], [at_angle(1)], [at_angle(2)], None, [at_angle(3)]]
    found = add_semantic_copies(candidates("aabaa"), [], embeddings, 0.02)
    assert originals(found) == {1: 0, 4: 0}
    assert {(copy.verdict, copy.reason) for copy in found} == {("near_duplicate", "similar_meaning")}


def test_every_slot_has_to_be_near() -> None:
    embeddings = [[at_angle(0), at_angle(0)], [at_angle(1), at_angle(90)], [at_angle(1), at_angle(1)]]
    assert originals(add_semantic_copies(candidates("aaa", num_images=2), [], embeddings, 0.02)) == {2: 0}


@pytest.mark.parametrize("earlier", [Copy(index=2, original=1, verdict="duplicate", reason="same_bytes")])
def test_a_copy_of_a_semantic_copy_points_to_the_kept_sample(earlier: Copy) -> None:
    embeddings = [[at_angle(0)], [at_angle(1)], [at_angle(1)]]
    found = add_semantic_copies(candidates("aaa"), [earlier], embeddings, 0.02)
    assert originals(found) == {1: 0, 2: 0}
    assert [copy.reason for copy in found] == ["similar_meaning", "same_bytes"]
