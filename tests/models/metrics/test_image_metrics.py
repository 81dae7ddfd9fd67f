"""PSNR and SSIM against slow plain versions, and against scikit-image."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from models.metrics.image_metrics import SSIM_SIGMA_PX, SSIM_WINDOW_PX, psnr, ssim


def plain_ssim(x: torch.Tensor, y: torch.Tensor) -> float:
    """One channel, one window position at a time."""
    half = SSIM_WINDOW_PX // 2
    weights = torch.tensor(
        [
            [math.exp(-(a * a + b * b) / (2 * SSIM_SIGMA_PX**2)) for a in range(-half, half + 1)]
            for b in range(-half, half + 1)
        ],
        dtype=torch.float64,
    )
    weights /= weights.sum()
    values = []
    for top in range(x.shape[0] - SSIM_WINDOW_PX + 1):
        for left in range(x.shape[1] - SSIM_WINDOW_PX + 1):
            a = x[top : top + SSIM_WINDOW_PX, left : left + SSIM_WINDOW_PX].double()
            b = y[top : top + SSIM_WINDOW_PX, left : left + SSIM_WINDOW_PX].double()
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a = (weights * (a - mean_a) ** 2).sum()
            var_b = (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            top_part = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
            values.append(float(top_part / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))))
    return sum(values) / len(values)


def test_ssim_equals_the_plain_windowed_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 16, 19, generator=generator)
    y = (x + 0.2 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    for found, a, b in zip(ssim(x, y), x, y, strict=True):
        expected = sum(plain_ssim(a[c], b[c]) for c in range(3)) / 3
        assert float(found) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(11, 30),
    width=st.integers(11, 30),
    channels=st.sampled_from([1, 3]),
    noise=st.sampled_from([0.01, 0.2, 1.0]),
)
def test_scikit_image_finds_the_same(seed: int, height: int, width: int, channels: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, channels, height, width, generator=generator)
    y = (x + noise * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    plain_x, plain_y = x[0].double().numpy(), y[0].double().numpy()
    similarity = structural_similarity(
        plain_x,
        plain_y,
        channel_axis=0,
        data_range=1,
        gaussian_weights=True,
        sigma=SSIM_SIGMA_PX,
        use_sample_covariance=False,
    )
    assert float(ssim(x, y)) == pytest.approx(float(similarity), abs=1e-9)
    assert float(psnr(x, y)) == pytest.approx(peak_signal_noise_ratio(plain_x, plain_y, data_range=1), abs=1e-9)


def test_equal_images_have_ssim_one_and_infinite_psnr() -> None:
    x = torch.rand(1, 3, 12, 12)
    assert float(ssim(x, x)) == pytest.approx(1.0)
    assert math.isinf(float(psnr(x, x)))


def test_psnr_of_a_constant_error_is_known() -> None:
    x = torch.zeros(1, 3, 4, 4)
    assert float(psnr(x + 0.1, x)) == pytest.approx(20.0, abs=1e-6)  # 0.1 in float32 is off by 1e-9


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(torch.rand(1, 3, 8, 16), torch.rand(1, 3, 8, 16))
