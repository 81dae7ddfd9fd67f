"""The search for near vectors against comparing every pair, and against faiss."""

from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.duplicates import near_vectors
from data_pipelines.duplicates.near_vectors import near_pairs
from data_pipelines.duplicates.semantic import group_by_meaning


def cosines(vectors_NSD: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    wide_NSD = vectors_NSD.astype(np.float64)
    wide_NSD /= np.linalg.norm(wide_NSD, axis=-1, keepdims=True)
    return np.einsum("nsd,msd->nms", wide_NSD, wide_NSD)


def clustered(rng: np.random.Generator, count: int, slots: int, width: int) -> np.ndarray[Any, Any]:
    """Around fewer points than there are vectors, some of them equal."""
    around = rng.normal(size=(max(1, count // 4), slots, width))[rng.integers(max(1, count // 4), size=count)]
    spread = rng.choice([0.0, 0.1, 0.5, 2.0], size=(count, 1, 1))
    return (around + spread * rng.normal(size=around.shape)).astype(np.float16)


@settings(deadline=None)  # loaded machines
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 80),
    slots=st.integers(1, 3),
    width=st.sampled_from([2, 3, 16]),
    distance=st.sampled_from([0.001, 0.1, 0.7, 1.5]),
    block=st.sampled_from([1, 5, 64]),
    at_once=st.sampled_from([1, 3, 64]),
)
def test_all_pairs_are_found_once(
    seed: int, count: int, slots: int, width: int, distance: float, block: int, at_once: int
) -> None:
    vectors_NSD = clustered(np.random.default_rng(seed), count, slots, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_vectors, "BLOCK", block)
        patch.setattr(near_vectors, "CELLS_AT_ONCE", at_once)
        blocks = list(near_pairs(vectors_NSD, distance))
    found = [
        tuple(sorted(pair)) for ones, others in blocks for pair in zip(ones.tolist(), others.tolist(), strict=True)
    ]
    assert len(found) == len(set(found))
    least_NN = cosines(vectors_NSD).min(axis=-1) - (1 - distance)
    low, high = np.nonzero(np.triu(np.ones((count, count)), 1))
    for pair, over in zip(zip(low.tolist(), high.tolist(), strict=True), least_NN[low, high].tolist(), strict=True):
        if abs(over) > 1e-6:  # what 32 bits can tell
            assert (pair in found) == (over > 0)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 300),
    width=st.sampled_from([2, 16]),
    block=st.sampled_from([5, 64]),
)
def test_the_pairs_are_those_of_faiss(seed: int, count: int, width: int, block: int) -> None:
    vectors_NSD = clustered(np.random.default_rng(seed), count, 1, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_vectors, "BLOCK", block)
        found = {
            (min(pair), max(pair))
            for left, right in near_pairs(vectors_NSD, 0.1)
            for pair in zip(left.tolist(), right.tolist(), strict=True)
        }
    units_ND = near_vectors._unit(vectors_NSD)[:, 0]
    index = faiss.IndexFlatIP(width)
    index.add(units_ND)
    certain, possible = (
        {
            (left, int(right))
            for left in range(count)
            for right in neighbours[bounds[left] : bounds[left + 1]]
            if left < right
        }
        for bounds, _, neighbours in (index.range_search(units_ND, 0.9 + slack) for slack in (1e-6, -1e-6))
    )
    assert certain <= found <= possible  # 32 bits cannot tell those between


def test_far_vectors_are_not_compared() -> None:
    rng = np.random.default_rng(3)
    vectors_NSD = clustered(rng, 5000, 1, 64)
    compared = 0
    plain = near_vectors.compare

    def counted(vectors: Any, ones: Any, others: Any, cosine: float) -> Any:
        nonlocal compared
        compared += len(ones) * len(others)
        return plain(vectors, ones, others, cosine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_vectors, "compare", counted)
        found = sum(len(ones) for ones, _ in near_pairs(vectors_NSD, 0.02))
    wanted = (np.triu(cosines(vectors_NSD)[:, :, 0], 1) > 0.98).sum()
    assert abs(found - wanted) <= 2
    assert compared < 5000**2 / 2 / 3  # a quarter of them lie far from everything, and in no cell tell much


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 24), slots=st.integers(1, 2))
def test_groups_follow_the_links_between_pairs(seed: int, count: int, slots: int) -> None:
    vectors_NSD = np.random.default_rng(seed).normal(size=(count, slots, 3)).astype(np.float16)
    linked = (cosines(vectors_NSD) > 0.9).all(-1)
    for _ in linked:
        linked = linked @ linked
    assert group_by_meaning(vectors_NSD, 0.1).tolist() == linked.argmax(axis=1).tolist()
