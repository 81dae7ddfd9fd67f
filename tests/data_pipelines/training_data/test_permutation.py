"""Permutations are bijections, evenly spread, and depend on key, seed, epoch and sample only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.training_data.permutation import Permutation, epoch_permutation, is_chosen, mix, sample_words

sizes = st.integers(1, 5000)


@settings(max_examples=80, deadline=None)
@given(size=sizes, key=st.text(max_size=8))
def test_a_permutation_visits_every_item_once_and_can_be_inverted(size: int, key: str) -> None:
    permutation = Permutation(size=size, key=key)
    positions = np.arange(size)
    items = permutation.index_at(positions)
    assert np.array_equal(np.sort(items), positions)
    assert np.array_equal(permutation.position_of(items), positions)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 2**61), data=st.data())
def test_a_huge_permutation_is_inverted_item_by_item(size: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)))
    permutation = Permutation(size=size, key="k")
    items = permutation.index_at(positions)
    assert items.min() >= 0
    assert items.max() < size
    assert np.array_equal(permutation.position_of(items), positions)


def test_epochs_datasets_and_seeds_have_different_orders() -> None:
    orders = [
        epoch_permutation(1000, dataset_digest=digest, seed=seed, epoch=epoch).index_at(np.arange(1000))
        for digest, seed, epoch in (("a", 1, 0), ("a", 1, 1), ("a", 2, 0), ("b", 1, 0))
    ]
    for first in range(4):
        for second in range(first):
            assert (orders[first] == orders[second]).mean() < 0.01


def test_a_permutation_is_the_same_in_every_version() -> None:
    """A changed order would silently break every resumed run and every trace."""
    assert Permutation(size=10, key="a").index_at(np.arange(10)).tolist() == PINNED
    epoch = epoch_permutation(12, dataset_digest="d", seed=3, epoch=2)
    assert epoch.index_at(np.arange(12)).tolist() == [7, 4, 9, 5, 2, 6, 3, 8, 11, 1, 0, 10]
    huge = Permutation(size=10**12, key="a").index_at([0, 1, 10**12 - 1])
    assert huge.tolist() == [24891072941, 15649310031, 92805640861]
    assert mix(np.array([0], dtype=np.uint64))[0] == 0xE220A8397B1DCDAF  # first output of SplitMix64 seeded with 0


PINNED = [8, 4, 1, 0, 3, 9, 2, 6, 7, 5]


def test_items_are_spread_evenly() -> None:
    """Chi-square over 20 x 20 cells of (position, item); 5 standard deviations are allowed."""
    size, cells = 100_003, 20
    items = Permutation(size=size, key="x").index_at(np.arange(size))
    table = np.histogram2d(np.arange(size), items, bins=cells)[0]
    expected = size / cells**2
    chi_square = float(((table - expected) ** 2 / expected).sum())
    degrees = (cells - 1) ** 2
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)
    neighbours = np.abs(np.diff(items))
    assert abs(neighbours.mean() / size - 1 / 3) < 0.01


def test_positions_outside_are_refused() -> None:
    permutation = Permutation(size=5, key="")
    for wrong in (-1, 5):
        with pytest.raises(IndexError):
            permutation.index_at([wrong])
        with pytest.raises(IndexError):
            permutation.position_of([wrong])
    with pytest.raises(ValueError, match="expected 1 to"):
        Permutation(size=0, key="")


def test_one_million_look_ups_in_a_hundred_million_items_are_right() -> None:
    permutation = Permutation(size=100_000_000, key="big")
    items = np.random.default_rng(0).integers(0, permutation.size, 1_000_000)
    assert np.array_equal(permutation.index_at(permutation.position_of(items)), items)


def test_a_tenth_of_the_samples_is_chosen_anew_in_each_epoch() -> None:
    ids = np.random.default_rng(0).integers(0, 256, (50_000, 32), dtype=np.uint8)
    words = sample_words(ids)
    assert int(words[3]) == int.from_bytes(ids[3, :8].tobytes(), "big")
    first = is_chosen(words, share=0.1, seed=5, epochs=0, purpose="guidance")
    second = is_chosen(words, share=0.1, seed=5, epochs=np.ones(50_000), purpose="guidance")
    assert abs(first.mean() - 0.1) < 0.005
    assert abs((first & second).mean() - 0.01) < 0.002
    assert np.array_equal(first[::-1], is_chosen(words[::-1], share=0.1, seed=5, epochs=0, purpose="guidance"))
    assert not is_chosen(words, share=0.0, seed=5, epochs=0, purpose="guidance").any()
    assert is_chosen(words, share=1.0, seed=5, epochs=0, purpose="guidance").all()


def test_which_samples_are_chosen_is_the_same_in_every_version() -> None:
    words = np.arange(1, 9, dtype=np.uint64) * np.uint64(0x0123456789ABCDEF)
    by_epoch = is_chosen(words, share=0.5, seed=5, epochs=np.arange(8), purpose="guidance")
    assert by_epoch.tolist() == [True, True, False, True, True, True, True, True]
    third = is_chosen(words, share=0.5, seed=5, epochs=3, purpose="guidance")
    assert third.tolist() == [False, True, True, True, False, False, True, False]


def test_the_edges_of_a_permutation_are_inside_it() -> None:
    permutation = Permutation(size=5, key="")
    assert sorted(permutation.index_at([0, 1, 2, 3, 4]).tolist()) == [0, 1, 2, 3, 4]
    assert permutation.index_at([]).shape == (0,)
    assert permutation.index_at([[0, 1], [2, 3]]).shape == (2, 2)
    assert permutation.index_at(3).shape == ()
    assert Permutation(size=1, key="").index_at([0]).tolist() == [0]
    with pytest.raises(ValueError, match=r"expected 1 to 2\^62"):
        Permutation(size=2**62, key="")
    assert Permutation(size=2**62 - 1, key="").size == 2**62 - 1
