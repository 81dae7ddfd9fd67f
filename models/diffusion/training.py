"""Perturbation of code features, and loss weights of noise levels, while the decoder trains.

All random numbers come from the generator, on its own device. Letters: B batch, Z code channels, Y X the pixel grid.
"""

import torch
from torch import Tensor

from models.diffusion.config import Perturbation


def perturb(features_BZYX: Tensor, semantic_channels: int, config: Perturbation, generator: torch.Generator) -> Tensor:
    """Code features with tokens replaced in some samples, and semantic or pixel features set to zero in some.

    A replaced position takes both features of another position anywhere in the batch, so it works for a batch of one.
    Source: arXiv 2504.01934 section 3.3 (shares); what replaces a token is not published.
    """
    batch, _, rows, columns = features_BZYX.shape
    device = features_BZYX.device

    def chance(share: float, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator, device=generator.device) < share).to(device)

    noisy = chance(config.noisy_samples, batch, 1, 1, 1) & chance(config.noisy_tokens, batch, 1, rows, columns)
    order = torch.randperm(batch * rows * columns, generator=generator, device=generator.device).to(device)
    tokens_TZ = features_BZYX.permute(0, 2, 3, 1).flatten(0, 2)
    others = tokens_TZ[order].view(batch, rows, columns, -1).permute(0, 3, 1, 2)
    semantic, pixel = torch.where(noisy, others, features_BZYX).split(
        [semantic_channels, features_BZYX.shape[1] - semantic_channels], dim=1
    )
    semantic = semantic.masked_fill(chance(config.drop_semantic, batch, 1, 1, 1), 0)
    pixel = pixel.masked_fill(chance(config.drop_pixel, batch, 1, 1, 1), 0)
    return torch.cat([semantic, pixel], dim=1)


def loss_weights(alphas_B: Tensor, *, prediction: str, min_snr: float | None) -> Tensor:
    """Weight of each sample's squared error; `alphas_B` are the cumulative products of 1 - beta at its step.

    Source: Hang et al., arXiv 2303.09556, for each kind of prediction; with `min_snr` None all weights are 1.
    """
    if min_snr is None:
        return torch.ones_like(alphas_B)
    snr_B = alphas_B / (1 - alphas_B)
    capped_B = snr_B.clamp(max=min_snr)
    return {"epsilon": capped_B / snr_B, "v_prediction": capped_B / (snr_B + 1), "sample": capped_B}[prediction]
