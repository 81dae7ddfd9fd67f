"""95 % intervals of means over samples, without random numbers: the same results give the same interval."""

import math
from collections.abc import Sequence
from statistics import NormalDist, stdev

Z = NormalDist().inv_cdf(0.975)


def share_interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean of shares, each 0 to 1: Wilson's score interval, which is true to its level for few samples and for
    shares near 0 and 1. Shares between 0 and 1 vary less than coin throws of the same mean, so it is never too narrow.

    Raises: ValueError without values.
    """
    return wilson_interval(_mean(values), len(values))


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Of a share of `count` samples. Source: E. B. Wilson, JASA 22 (1927), 209-212."""
    centre = share + Z * Z / (2 * count)
    reach = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean of any values, by the normal distribution. A single value has no known spread: an infinite interval.

    Raises: ValueError without values.
    """
    mean = _mean(values)
    if len(values) < 2:
        return -math.inf, math.inf
    reach = Z * stdev(values) / math.sqrt(len(values))
    return mean - reach, mean + reach


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("no values: an interval needs at least one")
    return sum(values) / len(values)
