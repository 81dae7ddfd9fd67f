"""The Qwen2-VL vision tower over batches of equal-sized images, with the published names of its weights.

Same mathematics and state dict as transformers' `Qwen2VisionTransformerPretrainedModel` (a test compares them), but
images are the rows of a batch [B, T, D], so attention never crosses images and needs no mask.
Letters: B batch, T tokens, V values of a patch, D width, N heads, H head width, C channels, Y X rows and columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dualvitok import geometry
from models.dualvitok.config import VisionConfig

# Source: CLIP normalisation, as in the published preprocessing.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ROTARY_BASE = 10_000.0


def images_to_patches(images_BCYX: Tensor, config: VisionConfig) -> tuple[Tensor, geometry.Size]:
    """Patches [B, T, V] of images in [-1, 1], in fp32, and the (rows, columns) of merged cells.

    Bicubic antialiased resize to the size of `geometry.vit_size`, clamp to [0, 1], CLIP normalisation. Tokens: cells in
    raster order, the patches of a cell in raster order. Values of a patch: channel, time, row, column.
    """
    height, width = geometry.vit_size(images_BCYX.shape[2], images_BCYX.shape[3])
    unit = (images_BCYX.float() + 1) / 2
    unit = F.interpolate(unit, size=(height, width), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    # Filled there: a copy from the host would wait for the device.
    mean, std = (
        torch.cat([unit.new_full((1, 1, 1, 1), value) for value in values], 1) for values in (CLIP_MEAN, CLIP_STD)
    )
    batch, channels = unit.shape[:2]
    merge, patch = config.merge, config.patch_px
    rows, columns = height // patch // merge, width // patch // merge
    cells = ((unit - mean) / std).view(batch, channels, rows, merge, patch, columns, merge, patch)
    cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(batch, rows * columns * merge**2, channels, 1, patch, patch)
    patches = cells.expand(-1, -1, -1, config.temporal_patch, -1, -1).reshape(batch, cells.shape[1], -1)
    return patches, (rows, columns)


def rotary_angles(row_T: Tensor, column_T: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine [T, 1, head_width] in fp32 of two-dimensional rotary positions.

    The first half of the frequencies turns with the row, the second with the column; both halves of a head share them.
    """
    exponents = torch.arange(0, head_width // 2, 2, dtype=torch.float32, device=row_T.device) / (head_width // 2)
    frequencies = ROTARY_BASE**-exponents
    angles = torch.cat([row_T.float()[:, None] * frequencies, column_T.float()[:, None] * frequencies], dim=1)
    angles = torch.cat([angles, angles], dim=1)[:, None]
    return angles.cos(), angles.sin()


def raster_positions(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every cell of a grid in raster order."""
    return (
        torch.arange(rows, device=device).repeat_interleave(columns),
        torch.arange(columns, device=device).repeat(rows),
    )


def merged_positions(rows: int, columns: int, merge: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every patch of a grid of merged cells, in the order of `images_to_patches`."""
    cell_row, cell_column = raster_positions(rows, columns, device)
    inner_row, inner_column = raster_positions(merge, merge, device)
    return (
        (cell_row[:, None] * merge + inner_row).flatten(),
        (cell_column[:, None] * merge + inner_column).flatten(),
    )


def rotate(x_BTNH: Tensor, cos_T1H: Tensor, sin_T1H: Tensor) -> Tensor:
    """Rotate heads by their positions ("rotate half" pairing), computed in fp32."""
    x = x_BTNH.float()
    first, second = x.chunk(2, dim=-1)
    return (x * cos_T1H + torch.cat([-second, first], dim=-1) * sin_T1H).to(x_BTNH.dtype)


class VisionAttention(nn.Module):
    """Full attention inside each image."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, cos_T1H: Tensor, sin_T1H: Tensor) -> Tensor:
        batch, tokens, width = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(batch, tokens, 3, self.num_heads, -1).unbind(2)
        q, k = rotate(q, cos_T1H, sin_T1H).to(v.dtype), rotate(k, cos_T1H, sin_T1H).to(v.dtype)
        mixed_BNTH = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out: Tensor = self.proj(mixed_BNTH.transpose(1, 2).reshape(batch, tokens, width))
        return out


class VisionMlp(nn.Module):
    """Two linear layers with quick-GELU, x * sigmoid(1.702 x)."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden = self.fc1(x_BTD)
        out: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden))
        return out


class VisionBlock(nn.Module):
    """Pre-norm transformer block; also used around the semantic quantizer."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.attn = VisionAttention(width, num_heads)
        self.mlp = VisionMlp(width, mlp_ratio)

    def forward(self, x_BTD: Tensor, cos_T1H: Tensor, sin_T1H: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD), cos_T1H, sin_T1H)
        out: Tensor = x_BTD + self.mlp(self.norm2(x_BTD))
        return out


class PatchEmbedding(nn.Module):
    """Linear map of a patch; stored as a 3-D convolution of stride = kernel, as published."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        kernel = (config.temporal_patch, config.patch_px, config.patch_px)
        self.proj = nn.Conv3d(config.channels, config.width, kernel_size=kernel, stride=kernel, bias=False)

    def forward(self, patches_BTV: Tensor) -> Tensor:
        weight = self.proj.weight
        return F.linear(patches_BTV.to(weight.dtype), weight.flatten(1))


class PatchMerger(nn.Module):
    """One vector for the patches of a cell."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.cell_width = config.width * config.merge**2
        self.ln_q = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(self.cell_width, self.cell_width), nn.GELU(), nn.Linear(self.cell_width, config.output_width)
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.ln_q(x_BTD).reshape(x_BTD.shape[0], -1, self.cell_width))
        return out


class VisionTower(nn.Module):
    """Images in [-1, 1] to one vector per cell of 28x28 resized pixels."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(
            VisionBlock(config.width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.merger = PatchMerger(config)

    def forward(self, images_BCYX: Tensor) -> Tensor:
        """Merger output [B, rows * columns, output_width], cells in raster order (`geometry.semantic_grid`)."""
        return self.forward_patches(*images_to_patches(images_BCYX, self.config))

    def forward_patches(self, patches_BTV: Tensor, grid: geometry.Size) -> Tensor:
        """The same from the patches of `images_to_patches`; `grid` counts merged cells."""
        x_BTD = self.patch_embed(patches_BTV)
        row_T, column_T = merged_positions(*grid, self.config.merge, x_BTD.device)
        angles = rotary_angles(row_T, column_T, self.config.width // self.config.num_heads)
        for block in self.blocks:
            x_BTD = block(x_BTD, *angles)
        merged: Tensor = self.merger(x_BTD)
        return merged
