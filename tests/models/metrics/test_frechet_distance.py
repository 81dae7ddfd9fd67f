import pytest
import torch

from models.metrics.frechet_distance import FeatureStatistics, frechet_distance


def gaussian(mean: list[float], deviations: list[float]) -> FeatureStatistics:
    """Statistics of a Gaussian with independent features."""
    values = torch.tensor(deviations, dtype=torch.float64)
    return FeatureStatistics(
        count=11, mean_D=torch.tensor(mean, dtype=torch.float64), scatter_DD=10 * torch.diag(values.square())
    )


def test_independent_features_have_a_closed_form() -> None:
    found = frechet_distance(gaussian([0, 1, 2], [1, 2, 3]), gaussian([1, 1, 0], [2, 2, 1]))
    assert found == pytest.approx((1 + 0 + 4) + (1 + 0 + 4))


def test_turning_both_changes_nothing_and_equal_ones_are_at_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(200, 6, generator=generator) @ torch.randn(6, 6, generator=generator) for _ in "ab")
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    plain = frechet_distance(FeatureStatistics.of(first), FeatureStatistics.of(second))
    turned = frechet_distance(FeatureStatistics.of(first @ turn), FeatureStatistics.of(second @ turn))
    assert turned == pytest.approx(plain, rel=1e-4)
    assert frechet_distance(FeatureStatistics.of(first), FeatureStatistics.of(first)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("cut", [0, 1, 70, 200])
def test_parts_merge_to_the_whole(cut: int) -> None:
    features = torch.randn(200, 5, generator=torch.Generator().manual_seed(1)) + 3
    merged = FeatureStatistics.of(features[:cut]).merge(FeatureStatistics.of(features[cut:]))
    whole = FeatureStatistics.of(features)
    assert merged.count == whole.count
    torch.testing.assert_close(merged.mean_D, whole.mean_D)
    torch.testing.assert_close(merged.covariance(), torch.cov(features.double().T))


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="covariance of 1 samples; at least two"):
        FeatureStatistics.of(torch.zeros(1, 3)).covariance()
