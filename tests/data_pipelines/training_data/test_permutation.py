"""Order and mixture are bijections with the stated proportions, and depend on nothing but what is written down."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.training_data.mixture import MAX_PATTERN, Mixture, Source, pattern_counts
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
def test_a_huge_permutation_is_inverted_place_by_place(size: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)))
    permutation = Permutation(size=size, key="k")
    items = permutation.index_at(positions)
    assert items.min() >= 0
    assert items.max() < size
    assert np.array_equal(permutation.position_of(items), positions)


def test_epochs_data_sets_and_seeds_have_different_orders() -> None:
    orders = [
        epoch_permutation(1000, dataset_digest=digest, seed=seed, epoch=epoch).index_at(np.arange(1000))
        for digest, seed, epoch in (("a", 1, 0), ("a", 1, 1), ("a", 2, 0), ("b", 1, 0))
    ]
    for first in range(4):
        for second in range(first):
            assert (orders[first] == orders[second]).mean() < 0.01


def test_the_order_is_the_same_in_every_version() -> None:
    """A changed order would silently break every resumed run and every trace."""
    assert Permutation(size=10, key="a").index_at(np.arange(10)).tolist() == PINNED
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


mixtures = st.lists(st.tuples(sizes, st.floats(0.01, 100) | st.integers(1, 20).map(float)), min_size=1, max_size=6).map(
    lambda parts: Mixture(
        seed=3, sources=tuple(Source(size=size, weight=weight, digest=str(n)) for n, (size, weight) in enumerate(parts))
    )
)


@settings(max_examples=60, deadline=None)
@given(mixture=mixtures, start=st.integers(0, 10**7))
def test_a_mixture_can_be_inverted(mixture: Mixture, start: int) -> None:
    positions = np.arange(start, start + 500)
    assert np.array_equal(mixture.position_of(mixture.at(positions)), positions)


@settings(max_examples=60, deadline=None)
@given(mixture=mixtures, start=st.integers(0, 10**6), length=st.integers(1, 3000))
def test_every_stretch_of_a_mixture_has_the_stated_proportions(mixture: Mixture, start: int, length: int) -> None:
    sources = mixture.at(np.arange(start, start + length)).sources
    total = sum(source.weight for source in mixture.sources)
    for number, source in enumerate(mixture.sources):
        expected = source.weight / total * length
        rounding = length * 2 * len(mixture.sources) / MAX_PATTERN
        assert abs(int((sources == number).sum()) - expected) <= len(mixture.sources) + 1 + rounding


def test_every_sample_comes_once_in_each_epoch_of_its_source() -> None:
    mixture = Mixture(seed=1, sources=(Source(size=7, weight=1, digest="a"), Source(size=30, weight=2, digest="b")))
    places = mixture.at(np.arange(3 * 7 * 30))
    for source, size, epochs in ((0, 7, 30), (1, 30, 14)):
        chosen = places.sources == source
        seen = set(zip(places.epochs[chosen].tolist(), places.indices[chosen].tolist(), strict=True))
        assert seen == {(epoch, index) for epoch in range(epochs) for index in range(size)}
        assert mixture.epochs_before(source, 3 * 7 * 30) == epochs
    assert mixture.epochs_before(0, 0) == 0
    assert mixture.epochs_before(1, 1) == int(places.sources[0] == 1)


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([1], [1]),
        ([0.5, 0.25, 0.25], [2, 1, 1]),
        ([3, 6], [1, 2]),
        ([0.1, 0.2, 0.7], [1, 2, 7]),
        ([1e-9, 1], [1, 65_535]),
    ],
)
def test_short_weights_are_met_exactly_and_long_ones_nearly(weights: list[float], counts: list[int]) -> None:
    assert pattern_counts(weights) == counts


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ((), "no source"),
        ((Source(size=0, weight=1, digest="a"),), "no samples"),
        ((Source(size=1, weight=0, digest="a"),), "positive number"),
        ((Source(size=1, weight=float("nan"), digest="a"),), "positive number"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(sources: tuple[Source, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(sources=sources, seed=0)


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
