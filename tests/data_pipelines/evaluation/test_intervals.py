"""The intervals against exact values, and against how often they hold the truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.evaluation.intervals import mean_interval, share_interval


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_shares_have_wilsons_interval(right: int, count: int, low: float, high: float) -> None:
    """Values of the last two cases: R. G. Newcombe, Statistics in Medicine 17 (1998), 857-872, table I."""
    assert share_interval([1.0] * right + [0.0] * (count - right)) == pytest.approx((low, high), abs=5e-5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_an_interval_of_shares_holds_the_mean_and_stays_a_share(values: list[float]) -> None:
    low, high = share_interval(values)
    assert 0 <= low <= sum(values) / len(values) + 1e-9
    assert sum(values) / len(values) - 1e-9 <= high <= 1


@pytest.mark.parametrize("truth", [0.05, 0.5, 0.97])
def test_intervals_of_shares_hold_the_truth_as_often_as_they_say(truth: float) -> None:
    rng = np.random.default_rng(7)
    drawn = rng.random((2000, 64)) < truth
    held = [low <= truth <= high for low, high in (share_interval(row.astype(float).tolist()) for row in drawn)]
    assert 0.92 < np.mean(held) < 0.98


def test_intervals_of_means_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    drawn = rng.normal(24.0, 3.0, (2000, 64))
    held = [low <= 24.0 <= high for low, high in (mean_interval(row.tolist()) for row in drawn)]
    assert 0.92 < np.mean(held) < 0.97


def test_a_lone_value_has_no_known_spread() -> None:
    assert mean_interval([3.0]) == (-math.inf, math.inf)


def test_no_values_have_no_interval() -> None:
    for interval in (share_interval, mean_interval):
        with pytest.raises(ValueError, match="no values"):
            interval([])
