"""A mixture is a bijection with the stated proportions, in which every sample comes once in each epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.training_data.mixture import MAX_PATTERN, Mixture, Source, pattern_counts

sizes = st.integers(1, 5000)
mixtures = st.lists(st.tuples(sizes, st.floats(0.01, 100) | st.integers(1, 20).map(float)), min_size=1, max_size=6).map(
    lambda parts: Mixture(
        seed=3, sources=tuple(Source(size=size, weight=weight, digest=str(n)) for n, (size, weight) in enumerate(parts))
    )
)


@settings(max_examples=60, deadline=None)
@given(mixture=mixtures, start=st.integers(0, 10**7))
def test_a_mixture_can_be_inverted(mixture: Mixture, start: int) -> None:
    positions = np.arange(start, start + 500)
    assert np.array_equal(mixture.position_of(mixture.locate(positions)), positions)


@settings(max_examples=60, deadline=None)
@given(mixture=mixtures, start=st.integers(0, 10**6), length=st.integers(1, 3000))
def test_every_stretch_of_a_mixture_has_the_stated_proportions(mixture: Mixture, start: int, length: int) -> None:
    sources = mixture.locate(np.arange(start, start + length)).sources
    total = sum(source.weight for source in mixture.sources)
    for number, source in enumerate(mixture.sources):
        expected = source.weight / total * length
        rounding = length * 2 * len(mixture.sources) / MAX_PATTERN
        assert abs(int((sources == number).sum()) - expected) <= len(mixture.sources) + 1 + rounding


def test_every_sample_comes_once_in_each_epoch_of_its_source() -> None:
    mixture = Mixture(seed=1, sources=(Source(size=7, weight=1, digest="a"), Source(size=30, weight=2, digest="b")))
    samples = mixture.locate(np.arange(3 * 7 * 30))
    for source, size, epochs in ((0, 7, 30), (1, 30, 14)):
        chosen = samples.sources == source
        seen = set(zip(samples.epochs[chosen].tolist(), samples.indices[chosen].tolist(), strict=True))
        assert seen == {(epoch, index) for epoch in range(epochs) for index in range(size)}
        assert mixture.epochs_before(source, 3 * 7 * 30) == epochs
    assert mixture.epochs_before(0, 0) == 0
    assert mixture.epochs_before(1, 1) == int(samples.sources[0] == 1)


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
def test_impossible_mixtures_are_refused(sources: tuple[Source, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(sources=sources, seed=0)
