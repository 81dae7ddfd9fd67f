"""The semantic branch around its quantizer: vision tower, blocks before the codes, blocks after them.

Letters: B batch, T merged cells in raster order, D width, Z code width, Y X rows and columns of the grid.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.dualvitok.config import BlocksConfig, DualViTokConfig
from models.dualvitok.geometry import Size
from models.dualvitok.vision_tower import VisionBlock, VisionTower, raster_positions, rotary_angles


def tokens_to_map(x_BTD: Tensor, grid: Size) -> Tensor:
    """[B, T, D] in raster order to [B, D, Y, X]."""
    return x_BTD.transpose(1, 2).reshape(x_BTD.shape[0], x_BTD.shape[2], *grid)


def map_to_tokens(x_BDYX: Tensor) -> Tensor:
    """[B, D, Y, X] to [B, T, D] in raster order."""
    return x_BDYX.flatten(2).transpose(1, 2)


def semantic_target(features_BTD: Tensor) -> Tensor:
    """The target of the semantic decoder: tower features, normalised without affine, in fp32."""
    return F.layer_norm(features_BTD.float(), features_BTD.shape[-1:], eps=1e-6)


def _blocks(config: BlocksConfig) -> nn.ModuleList:
    return nn.ModuleList(VisionBlock(config.width, config.num_heads, config.mlp_ratio) for _ in range(config.depth))


def _run_blocks(blocks: nn.ModuleList, x_BTD: Tensor, grid: Size, num_heads: int) -> Tensor:
    angles = rotary_angles(*raster_positions(*grid, x_BTD.device), x_BTD.shape[-1] // num_heads)
    for block in blocks:
        x_BTD = block(x_BTD, *angles)
    return x_BTD


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero bias, as published for the extra blocks."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SemanticEncoder(nn.Module):
    """Tower features to latents of the semantic codebook."""

    def __init__(self, config: DualViTokConfig) -> None:
        super().__init__()
        side = config.semantic.encoder
        self.num_heads = side.num_heads
        self.model = VisionTower(config.vision)
        self.proj_in = nn.Conv2d(config.vision.output_width, side.width, 1)  # applied as a linear layer
        self.blocks = _blocks(side)
        self.proj_out = nn.Sequential(nn.Linear(side.width, config.semantic.code_width))
        self.blocks.apply(initialise_linear)
        self.proj_out.apply(initialise_linear)

    def forward(self, target_BTD: Tensor, grid: Size) -> Tensor:
        """Latents [B, Z, Y, X] of normalised tower features (`semantic_target`)."""
        weight = self.proj_in.weight
        x_BTD = F.linear(target_BTD.to(weight.dtype), weight.flatten(1), self.proj_in.bias)
        x_BTD = _run_blocks(self.blocks, x_BTD, grid, self.num_heads)
        return tokens_to_map(self.proj_out(x_BTD), grid)


class SemanticDecoder(nn.Module):
    """Quantized semantic features back to normalised tower features."""

    def __init__(self, config: DualViTokConfig) -> None:
        super().__init__()
        side = config.semantic.decoder
        self.num_heads = side.num_heads
        self.proj_in = nn.Linear(config.semantic.code_width, side.width)
        self.blocks = _blocks(side)
        self.proj_out = nn.Sequential(
            nn.Linear(side.width, config.vision.output_width), nn.LayerNorm(config.vision.output_width, eps=1e-5)
        )
        self.apply(initialise_linear)

    def forward(self, quantized_BZYX: Tensor) -> Tensor:
        """[B, Z, Y, X] to [B, T, D]."""
        grid = (quantized_BZYX.shape[2], quantized_BZYX.shape[3])
        x_BTD = self.proj_in(map_to_tokens(quantized_BZYX).to(self.proj_in.weight.dtype))
        out: Tensor = self.proj_out(_run_blocks(self.blocks, x_BTD, grid, self.num_heads))
        return out
