"""The search in the nearest cells: what it finds is near, each pair once, and few that are near are missed."""

import numpy as np
import pytest

from data_pipelines.duplicates.near_vectors import BLOCK, Vectors, near_pairs
from data_pipelines.duplicates.probed_vectors import probed_pairs
from data_pipelines.duplicates.semantic import group_by_meaning


def topics(count: int, width: int, seed: int) -> Vectors:
    """Embeddings around topics, a tenth of them repeated with little noise [N, 1, D]."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count // 50, width))
    vectors = centres[rng.integers(len(centres), size=count)] + 0.5 * rng.normal(size=(count, width))
    copies = rng.permutation(count)[: count // 10]
    vectors[copies] = vectors[rng.permutation(count)[: len(copies)]] + 0.02 * rng.normal(size=(len(copies), width))
    return vectors.astype(np.float16)[:, None]


def pairs_of(found: object) -> list[tuple[int, int]]:
    pairs = [(int(a), int(b)) for left, right in found for a, b in zip(left, right, strict=True)]  # type: ignore[attr-defined]
    return [(min(pair), max(pair)) for pair in pairs]


@pytest.mark.parametrize("probes", [1, 3])
def test_pairs_are_near_and_found_once_and_few_are_missed(probes: int) -> None:
    vectors_NSD = topics(2 * BLOCK + 100, 32, seed=probes)
    exact = set(pairs_of(near_pairs(vectors_NSD, 0.02)))
    found = pairs_of(probed_pairs(vectors_NSD, 0.02, probes))
    assert len(found) == len(set(found))
    assert set(found) <= exact
    assert len(exact) > 100
    assert len(found) >= (0.9 if probes == 1 else 0.99) * len(exact)


def test_with_all_cells_nothing_is_missed() -> None:
    vectors_NSD = topics(BLOCK + 500, 8, seed=5)
    found = pairs_of(probed_pairs(vectors_NSD, 0.05, len(vectors_NSD)))
    assert sorted(found) == sorted(set(pairs_of(near_pairs(vectors_NSD, 0.05))))


def test_few_samples_are_compared_exactly() -> None:
    vectors_NSD = topics(300, 16, seed=2)
    assert (group_by_meaning(vectors_NSD, 0.02) == group_by_meaning(vectors_NSD, 0.02, probes=1)).all()
