"""What the diffusion decoder's network costs for one image, and the encoder of the published autoencoder.

The layers are those of diffusers' `UNet2DConditionModel` and `UNet2DModel` as `unet.py` builds them.
"""

from models.cost import Cost, attention, convolution, linear, norm, total
from models.diffusion.config import (
    NUM_TIME_IDS,
    POOLED_WIDTH,
    TEXT_TOKENS,
    TEXT_WIDTH,
    TIME_ID_WIDTH,
    DecoderConfig,
)

_RESIDUAL_BYTES = 6  # kept of each input and output channel at each cell
_TRANSFORMER_BYTES = 56  # of each channel at each cell, by one block
_PROJECTION_BYTES = 6
_DOWNSAMPLE_BYTES, _UPSAMPLE_BYTES = 2, 8
_ATTENTION_BYTES = 25
_AUTOENCODER_WIDTHS = (128, 256, 512, 512)  # source: stabilityai/stable-diffusion-xl-base-1.0, vae
_AUTOENCODER_BLOCKS = 2


def unet_cost(config: DecoderConfig, size: tuple[int, int]) -> Cost:
    """For an output of (height, width) pixels."""
    unet = config.unet
    widths = unet.widths
    cells = size[0] * size[1] // config.cell_px**2
    sdxl = unet.kind == "sdxl"
    embedding = 4 * widths[0]
    parts = [
        _embedding(widths[0], embedding),
        _embedding(NUM_TIME_IDS * TIME_ID_WIDTH + POOLED_WIDTH, embedding) if sdxl else _labels(config, embedding),
        convolution(cells, config.sample_channels + config.code_channels, widths[0]),
    ]
    before, skips = widths[0], [widths[0]]
    for index, width in enumerate(widths):
        for block in range(unet.residual_blocks):
            parts += _stage(config, index, before if block == 0 else width, width, cells)
            skips.append(width)
        if index < len(widths) - 1:
            cells //= 4
            parts.append(convolution(cells, width, width).keeping(_DOWNSAMPLE_BYTES * width * 4 * cells))
            skips.append(width)
        before = width
    parts += [_residual(before, before, cells, embedding).times(2), _middle(config, cells)]
    for index in reversed(range(len(widths))):
        width = widths[index]
        for block in range(unet.residual_blocks + 1):
            parts += _stage(config, index, (before if block == 0 else width) + skips.pop(), width, cells)
        if index > 0:
            cells *= 4
            parts.append(convolution(cells, width, width).keeping(_UPSAMPLE_BYTES * width * cells / 4))
        before = width
    parts += [norm(before), convolution(cells, before, config.sample_channels)]
    return total(*parts)


def autoencoder_cost(size: tuple[int, int]) -> Cost:
    """The encoder of SDXL's autoencoder, which is frozen: nothing is kept."""
    pixels = size[0] * size[1]
    before = _AUTOENCODER_WIDTHS[0]
    parts = [convolution(pixels, 3, before)]
    for index, width in enumerate(_AUTOENCODER_WIDTHS):
        for block in range(_AUTOENCODER_BLOCKS):
            parts.append(_residual(before if block == 0 else width, width, pixels, 0))
        if index < len(_AUTOENCODER_WIDTHS) - 1:
            pixels //= 4
            parts.append(convolution(pixels, width, width))
        before = width
    middle = norm(before) + linear(pixels, before, before).times(4) + attention(pixels, before)
    parts += [_residual(before, before, pixels, 0).times(2), middle, norm(before)]
    return total(*parts, convolution(pixels, before, 8), linear(pixels, 8, 8)).keeping(0)


def _embedding(inputs: int, width: int) -> Cost:
    return linear(1, inputs, width) + linear(1, width, width)


def _labels(config: DecoderConfig, width: int) -> Cost:
    return Cost(parameters=len(config.outputs) * width)


def _residual(inputs: int, outputs: int, cells: int, embedding: int) -> Cost:
    layers = total(
        norm(inputs),
        convolution(cells, inputs, outputs),
        linear(1, embedding, outputs) if embedding else Cost(),
        norm(outputs),
        convolution(cells, outputs, outputs),
        linear(cells, inputs, outputs) if inputs != outputs else Cost(),
    )
    return layers.keeping(_RESIDUAL_BYTES * (inputs + outputs) * cells)


def _stage(config: DecoderConfig, index: int, inputs: int, width: int, cells: int) -> list[Cost]:
    """One residual block of a level, and what follows it there."""
    parts = [_residual(inputs, width, cells, 4 * config.unet.widths[0])]
    layers = config.unet.transformer_layers[index]
    if layers and config.unet.kind == "sdxl":
        parts.append(_transformer(width, cells, layers))
    elif layers:
        parts.append(_plain_attention(width, cells))
    return parts


def _middle(config: DecoderConfig, cells: int) -> Cost:
    width = config.unet.widths[-1]
    if config.unet.kind == "sdxl":
        return _transformer(width, cells, max(1, config.unet.transformer_layers[-1]))
    return _plain_attention(width, cells)


def _plain_attention(width: int, cells: int) -> Cost:
    layers = norm(width) + linear(cells, width, width).times(4) + attention(cells, width)
    return layers.keeping(_ATTENTION_BYTES * width * cells)


def _transformer(width: int, cells: int, layers: int) -> Cost:
    block = total(
        norm(width).times(3),
        linear(cells, width, width, bias=False).times(3),
        linear(cells, width, width),
        attention(cells, width),
        linear(cells, width, width, bias=False),
        linear(TEXT_TOKENS, TEXT_WIDTH, width, bias=False).times(2),
        linear(cells, width, width),
        attention(cells, width, keys=TEXT_TOKENS),
        linear(cells, width, 8 * width),
        linear(cells, 4 * width, width),
    )
    text = TEXT_TOKENS * (4 * TEXT_WIDTH + 4 * width)  # the zero text in bfloat16, twice, and its keys and values
    blocks = block.keeping(_TRANSFORMER_BYTES * width * cells + text).times(layers)
    around = norm(width) + linear(cells, width, width).times(2)
    return blocks + around.keeping(_PROJECTION_BYTES * width * cells)
