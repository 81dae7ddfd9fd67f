"""Images as 8-bit levels, and their similarity: PSNR and SSIM on images in [0, 1].

scikit-image has the same metrics, for one image at a time in NumPy; here whole batches stay tensors. Tests compare.

Legend: B batch, C channels, Y X pixel rows and columns.
"""

import torch
from torch.nn import functional as F

SSIM_WINDOW_PX = 11  # Wang et al. 2004, section III-B: an 11x11 circular Gaussian window ...
SSIM_SIGMA_PX = 1.5  # ... with a standard deviation of 1.5 pixels
SSIM_K1, SSIM_K2 = 0.01, 0.03  # ibid.


def to_levels(images: torch.Tensor) -> torch.Tensor:
    """Floats [..., C, Y, X] in [-1, 1] to uint8 on the CPU: clamp(127.5 x + 128) cut to whole numbers, as published.

    Source: ILLUME+ released image processor; its input is x = u / 127.5 - 1, half a level apart.
    """
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu()


def psnr(found_BCYX: torch.Tensor, expected_BCYX: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image in dB, shape [B]; equal images give infinity. Data range 1."""
    error = (found_BCYX.double() - expected_BCYX.double()).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error)


def ssim(found_BCYX: torch.Tensor, expected_BCYX: torch.Tensor) -> torch.Tensor:
    """Mean structural similarity of each image, shape [B], at most 1. Data range 1; windows that fit entirely.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", equation 13.
    Raises: ValueError for images smaller than the window.
    """
    if min(found_BCYX.shape[-2:]) < SSIM_WINDOW_PX:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW_PX} px, found {tuple(found_BCYX.shape[-2:])}")
    x, y = found_BCYX.double(), expected_BCYX.double()
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _blur(images_BCYX: torch.Tensor) -> torch.Tensor:
    offsets = torch.arange(SSIM_WINDOW_PX, dtype=images_BCYX.dtype) - SSIM_WINDOW_PX // 2
    line = torch.exp(-offsets.square() / (2 * SSIM_SIGMA_PX**2))
    line = line / line.sum()
    channels = images_BCYX.shape[1]
    rows = line.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = line.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(images_BCYX, rows, groups=channels), columns, groups=channels)
