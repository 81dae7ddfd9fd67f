"""SimVQ: a frozen random codebook behind one trained linear map, and the search for the nearest code.

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
_TILE = 512  # codes among which the index is searched
_TILES_PER_STEP, _ROWS_PER_STEP = 4, 256  # on a CPU: scores of 2 MiB, which stay in its cache
_TILES_PER_STEP_ACCELERATOR, _ROWS_PER_STEP_ACCELERATOR = 16, 8_192


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Quantized latents."""

    features_BZYX: Tensor  # codes in fp32; gradients pass straight through to the latents
    codes_BYX: Tensor  # int64
    loss: Tensor  # codebook loss + COMMITMENT * commitment loss, means over all elements


def nearest_codes(x_MZ: Tensor, codebook_KZ: Tensor) -> Tensor:
    """Index [M] of the code with the smallest Euclidean distance, lowest index first among equals.

    Maximises x.c - |c|^2/2 in fp32. First only the best score of each tile of codes is computed, which is ten times
    faster than finding its index as well; then the index, in the best tile of each row only. A codebook of one tile is
    searched at once: copies of the tile for each row would cost more than the search.
    """
    tiles_TCZ, bias_TC = _tiles(codebook_KZ.float())
    on_cpu = x_MZ.device.type == "cpu"
    rows_per_step = _ROWS_PER_STEP if on_cpu else _ROWS_PER_STEP_ACCELERATOR
    tiles_per_step = _TILES_PER_STEP if on_cpu else _TILES_PER_STEP_ACCELERATOR
    found = [x_MZ.new_empty(0, dtype=torch.int64)]
    for rows_MZ in x_MZ.float().split(rows_per_step):
        if len(tiles_TCZ) == 1:
            found.append(torch.addmm(bias_TC[0], rows_MZ, tiles_TCZ[0].T).argmax(dim=1))
            continue
        best_M = _best_tiles(rows_MZ, tiles_TCZ, bias_TC, tiles_per_step)
        scores_MC = torch.bmm(tiles_TCZ[best_M], rows_MZ[:, :, None]).squeeze(2) + bias_TC[best_M]
        found.append(best_M * tiles_TCZ.shape[1] + scores_MC.argmax(dim=1))
    return torch.cat(found)


def _tiles(codebook_KZ: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in tiles [T, C, Z] and the constant part of their scores [T, C]; padding of the last tile never wins."""
    num_codes, width = codebook_KZ.shape
    tile = min(_TILE, num_codes)
    bias_K = codebook_KZ.square().sum(1).mul(-0.5)
    if missing := -num_codes % tile:
        codebook_KZ = F.pad(codebook_KZ, (0, 0, 0, missing))
        bias_K = F.pad(bias_K, (0, missing), value=-torch.inf)
    return codebook_KZ.view(-1, tile, width), bias_K.view(-1, tile)


def _best_tiles(x_MZ: Tensor, tiles_TCZ: Tensor, bias_TC: Tensor, tiles_per_step: int) -> Tensor:
    """The tile [M] with each row's best score, the first among equals."""
    best_scores = []
    for codes_TCZ, part_TC in zip(tiles_TCZ.split(tiles_per_step), bias_TC.split(tiles_per_step), strict=True):
        scores = torch.addmm(part_TC.flatten(), x_MZ, codes_TCZ.flatten(0, 1).T)
        best_scores.append(scores.view(len(x_MZ), len(codes_TCZ), -1).amax(dim=2))
    return torch.cat(best_scores, dim=1).argmax(dim=1)


class SimVQ(nn.Module):
    """Vector quantizer with effective codebook `frozen_codebook @ code_transform.T`.

    Stays in fp32 when the model is cast to a half-precision type, so codebooks are never rounded.
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

    def encode(self, latents_BZYX: Tensor, codebook_KZ: Tensor | None = None) -> Tensor:
        """Codes [B, Y, X], int64. `codebook_KZ` saves several calls from making the effective codebook again."""
        batch, width, rows, columns = latents_BZYX.shape
        with torch.no_grad(), torch.autocast(latents_BZYX.device.type, enabled=False):
            flat_MZ = latents_BZYX.detach().float().permute(0, 2, 3, 1).reshape(-1, width)
            found_M = nearest_codes(flat_MZ, self.effective_codebook() if codebook_KZ is None else codebook_KZ)
            return found_M.view(batch, rows, columns)

    def decode(self, codes_BYX: Tensor) -> Tensor:
        """Features [B, Z, Y, X] in fp32; trains `code_transform`.

        Raises: ValueError for codes outside the codebook.
        """
        self.check_codes(codes_BYX)
        return self.look_up(codes_BYX)

    def check_codes(self, codes_BYX: Tensor) -> None:
        """Raises: ValueError for codes outside the codebook. Waits for the device that they are on."""
        if codes_BYX.numel() and (int(codes_BYX.min()) < 0 or int(codes_BYX.max()) >= self.codebook_size):
            raise ValueError(
                f"codes from {int(codes_BYX.min())} to {int(codes_BYX.max())}: the codebook has 0 to "
                f"{self.codebook_size - 1}; these codes belong to another tokenizer"
            )

    def look_up(self, codes_BYX: Tensor) -> Tensor:
        """`decode` of codes that were checked."""
        with torch.autocast(codes_BYX.device.type, enabled=False):
            features_BYXZ = F.linear(F.embedding(codes_BYX, self.frozen_codebook), self.code_transform.weight)
        return features_BYXZ.permute(0, 3, 1, 2)

    def forward(self, latents_BZYX: Tensor) -> Quantized:
        latents = latents_BZYX.float()
        codes = self.encode(latents)
        features = self.look_up(codes)
        loss = F.mse_loss(features, latents.detach()) + COMMITMENT * F.mse_loss(latents, features.detach())
        return Quantized(features_BZYX=latents + (features - latents).detach(), codes_BYX=codes, loss=loss)


@dataclass(frozen=True, kw_only=True)
class CodeUsage:
    """How much of a codebook is used."""

    used_share: float  # 0..1
    perplexity: float  # exp of the entropy; the size of the codebook when all codes are equally frequent


def code_usage(counts_K: Tensor) -> CodeUsage:
    """From counts per code, for example `torch.bincount(codes.flatten(), minlength=K)` summed over batches."""
    share_K = counts_K.double() / counts_K.sum().clamp(min=1)
    entropy = -(share_K * share_K.clamp(min=1e-300).log()).sum()
    return CodeUsage(used_share=float((counts_K > 0).double().mean()), perplexity=float(entropy.exp()))
