"""Perturbation of pixel features while the tokenizer trains, so that the decoder becomes robust to wrong codes.

Source: ILLUME+ section 3.1 ("noise injection") and released fixed-256 configuration.
"""

import torch
from torch import Tensor

from models.dualvitok.config import NoiseConfig


def perturb(features_BZYX: Tensor, config: NoiseConfig, generator: torch.Generator | None = None) -> Tensor:
    """Features replaced at a share of the positions in a share of the images; semantic features are never perturbed.

    "random" takes the feature at the same position of the previous image of the batch, without its gradient. A batch of
    one has no previous image (the published code then silently does nothing): there, the image's own features are taken
    from shuffled positions. "zero" takes zeros. Draws, in this order, a number per image and one per position; on the
    device of the generator, which need not be that of the features.
    """
    if config.kind == "none":
        return features_BZYX
    batch, _, rows, columns = features_BZYX.shape
    device = features_BZYX.device
    draws = device if generator is None else generator.device
    keep_image = (torch.rand(batch, 1, 1, 1, generator=generator, device=draws) > config.sample_share).to(device)
    keep_position = torch.rand(batch, 1, rows, columns, generator=generator, device=draws) > config.token_share
    keep_position = keep_position.to(device)
    if config.kind == "zero":
        replacement = torch.zeros_like(features_BZYX)
    elif batch == 1:
        order = torch.randperm(rows * columns, generator=generator, device=draws).to(device)
        replacement = features_BZYX.detach().flatten(2)[:, :, order].view_as(features_BZYX)
    else:
        replacement = features_BZYX.detach().roll(1, dims=0)
    return torch.where(keep_image | keep_position, features_BZYX, replacement)
