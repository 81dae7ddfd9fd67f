"""The pixel branch: a convolutional encoder, and a decoder whose norms are conditioned on the codes (MoVQ style).

Letters: B batch, C channels, Z code channels, Y X rows and columns (of any level).
Source: ILLUME+ section 3.1 and released configuration; MoVQ (arXiv 2209.09002); DC-AE (arXiv 2410.10733).
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dualvitok.config import PixelConfig


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def _channels_last(x_BCYX: Tensor) -> Tensor:
    """The same values in the memory layout for convolutions, which ran 1.2 to 2 times faster on a CPU in fp32."""
    return x_BCYX.contiguous(memory_format=torch.channels_last)


def _group_means(x_BCYX: Tensor, groups: int) -> Tensor:
    """Mean of consecutive channels, [B, groups, Y, X]."""
    batch, channels, rows, columns = x_BCYX.shape
    return x_BCYX.reshape(batch, groups, channels // groups, rows, columns).mean(2)


class SpatialNorm(nn.Module):
    """A norm, then scale and shift per position by 1x1 convolutions of the code features.

    The convolutions run on the code grid and their results are repeated (nearest): a 1x1 convolution and a nearest
    upsampling commute, and this order costs a factor-squared less.
    """

    def __init__(self, norm: nn.Module, channels: int, code_channels: int) -> None:
        super().__init__()
        self.norm_layer = norm
        self.conv_y = nn.Conv2d(code_channels, channels, 1)
        self.conv_b = nn.Conv2d(code_channels, channels, 1)

    def forward(self, x_BCYX: Tensor, codes_BZYX: Tensor) -> Tensor:
        size = x_BCYX.shape[2:]
        scale, shift = self.conv_y(codes_BZYX), self.conv_b(codes_BZYX)
        if scale.shape[2:] != size:
            scale, shift = F.interpolate(scale, size=size), F.interpolate(shift, size=size)
        return (self.norm_layer(x_BCYX).to(scale.dtype) * scale).add_(shift)


def start_as_plain_norms(module: nn.Module) -> None:
    """Let every `SpatialNorm` inside begin near a plain norm: its scale around 1, its shift around 0.

    By default both biases are random around 0: a deep decoder then multiplies its signals away before it learns.
    """
    for norm in module.modules():
        if isinstance(norm, SpatialNorm):
            for convolution, value in ((norm.conv_y, 1.0), (norm.conv_b, 0.0)):
                assert convolution.bias is not None, "made with one"
                nn.init.constant_(convolution.bias, value)


class Norm(nn.GroupNorm):
    """Group norm with the signature of a `SpatialNorm`, for the encoder, which has no codes."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x_BCYX: Tensor, codes_BZYX: Tensor | None = None) -> Tensor:
        return super().forward(x_BCYX)


class PositionNorm(nn.LayerNorm):
    """Layer norm over the channels of each position, with the same signature: positions do not see each other."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x_BCYX: Tensor, codes_BZYX: Tensor | None = None) -> Tensor:
        return super().forward(x_BCYX.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormFactory:
    """Makes the norms of the encoder (`code_channels` None) or of the decoder."""

    def __init__(self, code_channels: int | None, config: PixelConfig) -> None:
        self.code_channels = code_channels
        self.config = config

    def norm(self, channels: int) -> nn.Module:
        norm = PositionNorm(channels) if self.is_near else Norm(channels, self.config.norm_groups)
        return norm if self.code_channels is None else SpatialNorm(norm, channels, self.code_channels)

    @property
    def is_near(self) -> bool:
        return self.config.context == "near"


class ResidualBlock(nn.Module):
    """norm, SiLU, convolution, twice, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, norms: NormFactory) -> None:
        super().__init__()
        self.norm1 = norms.norm(inputs)
        self.norm2 = norms.norm(outputs)
        self.conv1 = _conv3(inputs, outputs)
        self.conv2 = _conv3(outputs, outputs)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x_BCYX: Tensor, codes_BZYX: Tensor | None = None) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x_BCYX, codes_BZYX)))
        hidden = self.conv2(F.silu(self.norm2(hidden, codes_BZYX)))
        shortcut = x_BCYX if self.nin_shortcut is None else self.nin_shortcut(x_BCYX)
        return cast(Tensor, shortcut + hidden)


class AttentionBlock(nn.Module):
    """Single-head attention over all positions of one image."""

    def __init__(self, channels: int, norms: NormFactory) -> None:
        super().__init__()
        self.norm = norms.norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCYX: Tensor, codes_BZYX: Tensor | None = None) -> Tensor:
        hidden = self.norm(x_BCYX, codes_BZYX)
        q, k, v = (layer(hidden).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        mixed_BTC = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return cast(Tensor, x_BCYX + self.proj_out(mixed_BTC.transpose(1, 2).reshape(x_BCYX.shape)))


class Downsample(nn.Module):
    """Half the resolution: convolution to a quarter of the channels, pixel-unshuffle, plus the 2x2 mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv3(channels, channels // 4)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.conv(x_BCYX), 2) + F.avg_pool2d(x_BCYX, 2)


class Upsample(nn.Module):
    """Twice the resolution: convolution to four times the channels, pixel-shuffle, plus the repeated input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv3(channels, 4 * channels)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x_BCYX), 2) + F.interpolate(x_BCYX, scale_factor=2)


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution; no attention where context is near."""

    def __init__(self, channels: int, norms: NormFactory) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, norms)
        self.attn_1 = None if norms.is_near else AttentionBlock(channels, norms)
        self.block_2 = ResidualBlock(channels, channels, norms)

    def forward(self, x_BCYX: Tensor, codes_BZYX: Tensor | None = None) -> Tensor:
        for layer in (self.block_1, self.attn_1, self.block_2):
            if layer is not None:
                x_BCYX = layer(x_BCYX, codes_BZYX)
        return x_BCYX


class Level(nn.Module):
    """The blocks of one resolution, each followed by attention if the level has any."""

    def __init__(self, inputs: int, outputs: int, *, num_blocks: int, attention: bool, norms: NormFactory) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(inputs if index == 0 else outputs, outputs, norms) for index in range(num_blocks)
        )
        self.attn = nn.ModuleList(AttentionBlock(outputs, norms) for _ in range(num_blocks if attention else 0))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x_BCYX: Tensor, codes_BZYX: Tensor | None = None) -> Tensor:
        for index, block in enumerate(self.block):
            x_BCYX = block(x_BCYX, codes_BZYX)
            if self.attn:
                x_BCYX = self.attn[index](x_BCYX, codes_BZYX)
        for resample in (self.downsample, self.upsample):
            if resample is not None:
                x_BCYX = resample(x_BCYX)
        return x_BCYX


class PixelEncoder(nn.Module):
    """Images [B, 3, Y, X] to [B, code_width, Y/factor, X/factor]; the output before `pixel_quant_conv`."""

    def __init__(self, config: PixelConfig) -> None:
        super().__init__()
        norms = NormFactory(None, config)
        side = config.encoder
        self.code_width = config.code_width
        self.conv_in = _conv3(3, side.channels)
        self.down = nn.ModuleList()
        before = side.channels
        for index, width in enumerate(side.widths):
            attention = index in side.attention_levels
            level = Level(before, width, num_blocks=side.residual_blocks, attention=attention, norms=norms)
            if index < len(side.widths) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
            before = width
        self.mid = Middle(before, norms)
        self.norm_out = norms.norm(before)
        self.conv_out = _conv3(before, config.code_width)

    def forward(self, images_BCYX: Tensor) -> Tensor:
        x_BCYX = self.conv_in(_channels_last(images_BCYX.to(self.conv_in.weight.dtype)))
        for level in self.down:
            x_BCYX = level(x_BCYX)
        x_BCYX = F.silu(self.norm_out(self.mid(x_BCYX)))
        return cast(Tensor, self.conv_out(x_BCYX) + _group_means(x_BCYX, self.code_width))


class PixelDecoder(nn.Module):
    """Code features to images [B, 3, Y, X], not clamped.

    Takes the features twice: after `pixel_post_quant_conv` as input, and unchanged for the norms.
    """

    def __init__(self, config: PixelConfig, code_channels: int) -> None:
        super().__init__()
        norms = NormFactory(code_channels, config)
        side = config.decoder
        widths = side.widths
        self.conv_in = _conv3(code_channels, widths[-1])
        self.repeats = widths[-1] // code_channels
        self.mid = Middle(widths[-1], norms)
        levels: list[Level] = []
        before = widths[-1]
        for index in reversed(range(len(widths))):
            attention = index in side.attention_levels
            level = Level(before, widths[index], num_blocks=side.residual_blocks + 1, attention=attention, norms=norms)
            if index > 0:
                level.upsample = Upsample(widths[index])
            levels.append(level)
            before = widths[index]
        self.up = nn.ModuleList(reversed(levels))  # published numbering: 0 is full resolution
        self.norm_out = norms.norm(before)
        self.conv_out = _conv3(before, 3)

    def forward(self, z_BZYX: Tensor, codes_BZYX: Tensor) -> Tensor:
        z_BZYX, codes_BZYX = _channels_last(z_BZYX), _channels_last(codes_BZYX)
        x_BCYX = self.conv_in(z_BZYX) + z_BZYX.repeat_interleave(self.repeats, dim=1)
        x_BCYX = self.mid(x_BCYX, codes_BZYX)
        for level in reversed(self.up):
            x_BCYX = level(x_BCYX, codes_BZYX)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(x_BCYX, codes_BZYX))))
