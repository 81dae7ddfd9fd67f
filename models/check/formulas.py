"""The formulas that the vector files state instead of storing what they give: images, LPIPS weights, scores."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


def formula_image(height: int, width: int, k: int) -> npt.NDArray[np.uint8]:
    """Image number `k`, uint8 [Y, X, 3], by integer arithmetic (`image_formula` of the DualViTok vectors)."""
    y, x = np.arange(height, dtype=np.int64)[:, None], np.arange(width, dtype=np.int64)[None, :]
    channels = []
    for c in range(3):
        a, b = (7 * (k + 1) + 13 * c) % 29 + 3, (11 * (k + 2) + 5 * c) % 23 + 2
        smooth = (y * 255 * (c + 1)) // (2 * height) + (x * 255 * (3 - c)) // (2 * width)
        rings = ((y - height // 2) ** 2 + (x - width // 3) ** 2) // (16 * a)
        stripes = ((x * b + y * a) // 16) % 64
        blocks = (((y // 24) * 5 + (x // 20) * 3 + k) % 7) * 17
        channels.append((smooth + (rings % 96) + stripes + blocks) % 256)
    return np.stack(channels, axis=-1).astype(np.uint8)


def to_input(images_BYXC: npt.NDArray[np.uint8]) -> Tensor:
    """Bytes [B, Y, X, 3] to what the models read: [B, 3, Y, X] in [-1, 1]."""
    return torch.from_numpy(images_BYXC).permute(0, 3, 1, 2).float() / 127.5 - 1


def formula_images(height: int, width: int, ks: Sequence[int]) -> Tensor:
    """Images [B, 3, Y, X] in [-1, 1]."""
    return to_input(np.stack([formula_image(height, width, k) for k in ks]))


def fill_lpips(model: nn.Module) -> None:
    """Give every parameter of LPIPS its values by the `rule` of the LPIPS vectors, in the order of the state dict."""
    for order, (name, parameter) in enumerate(model.named_parameters()):
        value = torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + 1.3 * order)
        if parameter.ndim == 4 and "lin" not in name:
            value = value * math.sqrt(2.0) * math.sqrt(2.0 / parameter[0].numel())
        elif parameter.ndim == 1:
            value = 0.05 * value
        else:
            value = 0.5 * (1 + value) / parameter.shape[1]
        parameter.data.copy_(value.float().view_as(parameter))


def formula_scores(vocabulary_size: int, step: int, salt: int) -> Tensor:
    """Scores [1, V] of one step of the sampler vectors (`logit_formula`)."""
    n = torch.arange(vocabulary_size, dtype=torch.float64)
    return (3 * torch.sin(0.9 * n * (step % 7 + 1) + 0.37 * step + salt)).float()[None]
