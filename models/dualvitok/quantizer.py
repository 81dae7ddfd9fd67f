"""SimVQ: a frozen random code book seen through one trained linear map, and the search for the nearest code.

The search works on tiles and never holds all distances; it returns the lowest index among equally near codes.
Letters: B batch, Z code width, Y X rows and columns, M vectors, K codes.
Source: SimVQ (arXiv 2411.02038); ILLUME+ section 3.1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COMMITMENT = 0.25  # weight of the encoder's half of the loss
_TILE_CODES = 8_192
_TILE_SCORES = 1 << 22  # scores held at once on a CPU: 16 MiB, about its cache
_TILE_SCORES_ACCELERATOR = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What the quantizer makes of latents."""

    features_BZYX: Tensor  # codes in fp32; gradients pass straight through to the latents
    codes_BYX: Tensor  # int64
    loss: Tensor  # code-book loss + COMMITMENT * commitment loss, means over all elements


def nearest_codes(x_MZ: Tensor, codebook_KZ: Tensor) -> Tensor:
    """Index [M] of the code with the smallest Euclidean distance, lowest index first among equals.

    Maximises x.c - |c|^2/2 in fp32 over tiles of rows and codes.
    """
    x_MZ, codebook_KZ = x_MZ.float(), codebook_KZ.float()
    bias_K = codebook_KZ.square().sum(1).mul(-0.5)
    columns = min(_TILE_CODES, codebook_KZ.shape[0])
    budget = _TILE_SCORES if x_MZ.device.type == "cpu" else _TILE_SCORES_ACCELERATOR
    found = [
        _nearest_in_tiles(rows_MZ, codebook_KZ, bias_K, columns) for rows_MZ in x_MZ.split(max(1, budget // columns))
    ]
    return torch.cat(found) if found else x_MZ.new_empty(0, dtype=torch.int64)


def _nearest_in_tiles(x_MZ: Tensor, codebook_KZ: Tensor, bias_K: Tensor, columns: int) -> Tensor:
    best_score: Tensor | None = None
    best_index = torch.empty(0)
    for start in range(0, codebook_KZ.shape[0], columns):
        tile_KZ = codebook_KZ[start : start + columns]
        score, index = torch.addmm(bias_K[start : start + columns], x_MZ, tile_KZ.T).max(dim=1)
        if best_score is None:
            best_score, best_index = score, index
        else:
            best_index = torch.where(score > best_score, index + start, best_index)  # strictly: earlier tiles win ties
            best_score = torch.maximum(score, best_score)
    return best_index


class SimVQ(nn.Module):
    """Vector quantizer with effective code book `frozen_codebook @ code_transform.T`.

    Stays in fp32 when the model is cast to a half-precision type, so code books are never rounded.
    """

    frozen_codebook: Tensor

    def __init__(self, codebook_size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("frozen_codebook", torch.randn(codebook_size, width) * width**-0.5)
        self.code_transform = nn.Linear(width, width, bias=False)

    @property
    def codebook_size(self) -> int:
        return self.frozen_codebook.shape[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SimVQ":
        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            halved = moved.dtype in (torch.bfloat16, torch.float16)
            return tensor.to(moved.device) if halved else moved

        return super()._apply(keep_precision, recurse)

    def effective_codebook(self) -> Tensor:
        """[K, Z] in fp32."""
        with torch.autocast(self.frozen_codebook.device.type, enabled=False):
            return F.linear(self.frozen_codebook, self.code_transform.weight)

    def encode(self, latents_BZYX: Tensor) -> Tensor:
        """Codes [B, Y, X], int64."""
        batch, width, rows, columns = latents_BZYX.shape
        with torch.no_grad(), torch.autocast(latents_BZYX.device.type, enabled=False):
            flat_MZ = latents_BZYX.detach().float().permute(0, 2, 3, 1).reshape(-1, width)
            return nearest_codes(flat_MZ, self.effective_codebook()).view(batch, rows, columns)

    def decode(self, codes_BYX: Tensor) -> Tensor:
        """Features [B, Z, Y, X] in fp32; trains `code_transform`.

        Raises: ValueError for codes outside the code book.
        """
        if codes_BYX.numel() and (int(codes_BYX.min()) < 0 or int(codes_BYX.max()) >= self.codebook_size):
            raise ValueError(
                f"codes from {int(codes_BYX.min())} to {int(codes_BYX.max())}: the code book has 0 to "
                f"{self.codebook_size - 1}; these codes belong to another tokenizer"
            )
        return self._look_up(codes_BYX)

    def _look_up(self, codes_BYX: Tensor) -> Tensor:
        with torch.autocast(codes_BYX.device.type, enabled=False):
            features_BYXZ = F.linear(F.embedding(codes_BYX, self.frozen_codebook), self.code_transform.weight)
        return features_BYXZ.permute(0, 3, 1, 2)

    def forward(self, latents_BZYX: Tensor) -> Quantized:
        latents = latents_BZYX.float()
        codes = self.encode(latents)
        features = self._look_up(codes)
        loss = F.mse_loss(features, latents.detach()) + COMMITMENT * F.mse_loss(latents, features.detach())
        return Quantized(features_BZYX=latents + (features - latents).detach(), codes_BYX=codes, loss=loss)


@dataclass(frozen=True, kw_only=True)
class CodeUsage:
    """How much of a code book some codes use."""

    used_share: float  # 0..1
    perplexity: float  # exp of the entropy; the size of the code book when all codes are equally frequent


def code_usage(counts_K: Tensor) -> CodeUsage:
    """From counts per code, for example `torch.bincount(codes.flatten(), minlength=K)` summed over batches."""
    share_K = counts_K.double() / counts_K.sum().clamp(min=1)
    entropy = -(share_K * share_K.clamp(min=1e-300).log()).sum()
    return CodeUsage(used_share=float((counts_K > 0).double().mean()), perplexity=float(entropy.exp()))
