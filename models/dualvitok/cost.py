"""What the parts of DualViTok cost for one image. Letters: px image pixels, T patches or cells, D width."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from models.cost import Cost, attention, convolution, linear, norm, total
from models.dualvitok.config import BlocksConfig, ConvolutionsConfig, DualViTokConfig, PixelConfig, VisionConfig
from models.dualvitok.geometry import Size, pixel_grid, semantic_grid

_BLOCK_BYTES = 24  # kept of each position and channel by a transformer block, and for each channel of its MLP:
_MLP_BYTES = 6
_ATTENTION_BYTES = 25
_MERGER_BYTES = 10
# Kept of each input and output channel of a residual block at each pixel, with and without the norm by codes.
_RESIDUAL_BYTES = {False: (6, 6), True: (12, 10)}
_DOWNSAMPLE_BYTES, _UPSAMPLE_BYTES = 2, 2


def tower_block(positions: int, width: int, mlp_ratio: int) -> Cost:
    """One pre-norm transformer block."""
    layers = total(
        norm(width).times(2),
        linear(positions, width, 3 * width),
        attention(positions, width),
        linear(positions, width, width),
        linear(positions, width, mlp_ratio * width),
        linear(positions, mlp_ratio * width, width),
    )
    return layers.keeping(positions * width * (_BLOCK_BYTES + _MLP_BYTES * mlp_ratio))


@dataclass(frozen=True, kw_only=True)
class TowerCost:
    """The vision tower: patches, equal blocks, and the merger."""

    patches: Cost
    block: Cost
    num_blocks: int
    merger: Cost

    @property
    def whole(self) -> Cost:
        return total(self.patches, self.block.times(self.num_blocks), self.merger)


def tower_cost(config: VisionConfig, size: Size) -> TowerCost:
    cells = cell_count(size)
    positions = cells * config.merge**2
    patch = config.channels * config.temporal_patch * config.patch_px**2
    cell_width = config.width * config.merge**2
    merger = total(
        norm(config.width),
        linear(cells, cell_width, cell_width),
        linear(cells, cell_width, config.output_width),
    )
    return TowerCost(
        patches=linear(positions, patch, config.width, bias=False),
        block=tower_block(positions, config.width, config.mlp_ratio),
        num_blocks=config.depth,
        merger=merger.keeping(positions * config.width * _MERGER_BYTES),
    )


def semantic_coder_costs(config: DualViTokConfig, size: Size) -> tuple[Cost, Cost]:
    """The blocks before and after the semantic quantizer, without the tower."""
    cells, codes, width = cell_count(size), config.semantic.code_width, config.vision.output_width
    before, after = config.semantic.encoder, config.semantic.decoder
    encoder = total(linear(cells, width, before.width), _blocks(before, cells), linear(cells, before.width, codes))
    decoder = total(
        linear(cells, codes, after.width), _blocks(after, cells), linear(cells, after.width, width), norm(width)
    )
    return encoder, decoder


def quantizer_cost(width: int, codes: int, codebook_size: int) -> Cost:
    """SimVQ: a product of each vector with every code, outside of autograd, and the transform that trains."""
    transform = linear(codes + codebook_size, width, width, bias=False)
    search = Cost(flops=2 * codes * width * (codebook_size + min(512, codebook_size)))
    return transform + search


def pixel_encoder_cost(config: PixelConfig, size: Size) -> Cost:
    side = config.encoder
    pixels = size[0] * size[1]
    parts = [convolution(pixels, 3, side.channels)]
    before = side.channels
    for index, width in enumerate(side.widths):
        parts.append(_level(side, index, before, width, pixels, num_blocks=side.residual_blocks, codes=0))
        if index < len(side.widths) - 1:
            parts.append(convolution(pixels, width, width // 4).keeping(_DOWNSAMPLE_BYTES * width * pixels))
            pixels //= 4
        before = width
    parts += [_middle(config, before, pixels, 0), norm(before), convolution(pixels, before, config.code_width)]
    return total(*parts)


def pixel_encoder_ends(config: PixelConfig) -> Cost:
    """The parameters outside of the levels: first and last convolution, middle and last norm."""
    first, last = config.encoder.channels, config.encoder.widths[-1]
    middle = _middle(config, last, 0, 0)
    return total(convolution(0, 3, first), middle, norm(last), convolution(0, last, config.code_width))


def pixel_decoder_cost(config: PixelConfig, size: Size, code_channels: int) -> Cost:
    side = config.decoder
    rows, columns = pixel_grid(*size, config.factor)
    pixels = grid = rows * columns
    before = side.widths[-1]
    parts = [convolution(pixels, code_channels, before), _middle(config, before, pixels, code_channels, grid)]
    for index in reversed(range(len(side.widths))):
        width = side.widths[index]
        blocks = side.residual_blocks + 1
        parts.append(_level(side, index, before, width, pixels, num_blocks=blocks, codes=code_channels, grid=grid))
        if index > 0:
            parts.append(convolution(pixels, width, 4 * width).keeping(_UPSAMPLE_BYTES * width * pixels))
            pixels *= 4
        before = width
    parts += [_norm(before, code_channels, grid), convolution(pixels, before, 3)]
    return total(*parts)


def discriminator_parameters(channels: int, layers: int) -> int:
    """The PatchGAN: convolutions of 4x4, the inner ones without bias and with batch norm."""
    widths = [channels * min(2**index, 8) for index in range(layers + 1)]
    inner = sum(16 * before * after + 2 * after for before, after in itertools.pairwise(widths))
    return 16 * 3 * channels + channels + inner + 16 * widths[-1] + 1


def discriminator_flops(channels: int, layers: int, size: Size) -> float:
    """Of one forward pass over one image."""
    rows, columns = size
    before, flops = 3, 0.0
    for index in range(layers + 2):
        stride = 2 if index < layers else 1
        rows, columns = (rows + 2 - 4) // stride + 1, (columns + 2 - 4) // stride + 1
        after = 1 if index == layers + 1 else channels * min(2**index, 8)
        flops += 2 * 16 * before * after * rows * columns
        before = after
    return flops


def cell_count(size: Size) -> int:
    """Semantic positions of an image."""
    rows, columns = semantic_grid(*size)
    return rows * columns


def _blocks(config: BlocksConfig, positions: int) -> Cost:
    return tower_block(positions, config.width, config.mlp_ratio).times(config.depth)


def _norm(channels: int, codes: int, grid: int) -> Cost:
    """A norm of groups or positions, and its two 1x1 convolutions of the code features where there are any."""
    return norm(channels) + (linear(grid, codes, channels).times(2) if codes else Cost())


def _residual(inputs: int, outputs: int, pixels: int, codes: int, grid: int) -> Cost:
    layers = total(
        _norm(inputs, codes, grid),
        _norm(outputs, codes, grid),
        convolution(pixels, inputs, outputs),
        convolution(pixels, outputs, outputs),
        linear(pixels, inputs, outputs) if inputs != outputs else Cost(),
    )
    of_input, of_output = _RESIDUAL_BYTES[codes > 0]
    return layers.keeping((of_input * inputs + of_output * outputs) * pixels)


def _attention(channels: int, pixels: int, codes: int, grid: int) -> Cost:
    layers = _norm(channels, codes, grid) + linear(pixels, channels, channels).times(4) + attention(pixels, channels)
    return layers.keeping(_ATTENTION_BYTES * channels * pixels)


def _middle(config: PixelConfig, channels: int, pixels: int, codes: int, grid: int = 0) -> Cost:
    blocks = _residual(channels, channels, pixels, codes, grid).times(2)
    return blocks if config.context == "near" else blocks + _attention(channels, pixels, codes, grid)


def _level(
    side: ConvolutionsConfig,
    index: int,
    inputs: int,
    outputs: int,
    pixels: int,
    *,
    num_blocks: int,
    codes: int,
    grid: int = 0,
) -> Cost:
    widths: Sequence[int] = [inputs] + [outputs] * (num_blocks - 1)
    blocks = total(*(_residual(width, outputs, pixels, codes, grid) for width in widths))
    with_attention = index in side.attention_levels
    return blocks + (_attention(outputs, pixels, codes, grid).times(num_blocks) if with_attention else Cost())
