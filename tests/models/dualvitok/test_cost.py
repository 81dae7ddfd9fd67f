from dataclasses import replace

import pytest
import torch
from torch import nn

from models.cost import Cost
from models.dualvitok.config import (
    BlocksConfig,
    ConvolutionsConfig,
    DiscriminatorConfig,
    DualViTokConfig,
    PixelConfig,
    SemanticConfig,
    VisionConfig,
)
from models.dualvitok.cost import (
    discriminator_flops,
    discriminator_parameters,
    pixel_decoder_cost,
    pixel_encoder_cost,
    pixel_encoder_ends,
    semantic_coder_costs,
    tower_cost,
)
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.pixel import PixelDecoder, PixelEncoder
from models.dualvitok.semantic import SemanticDecoder, SemanticEncoder
from models.dualvitok.vision_tower import VisionTower
from tests.models.measured import Build, Call, measured_flops, measured_parameters, measured_saved_bytes

SIZE = (64, 96)
PIXEL = PixelConfig(
    encoder=ConvolutionsConfig(channels=32, channel_multipliers=(1, 2, 4), attention_levels=(2,)),
    decoder=ConvolutionsConfig(channels=64, channel_multipliers=(1, 1, 2), residual_blocks=1, attention_levels=(1, 2)),
)
NEAR = PixelConfig(
    encoder=replace(PIXEL.encoder, attention_levels=()),
    decoder=replace(PIXEL.decoder, attention_levels=()),
    context="near",
)
TOWER = VisionConfig(depth=3, width=128, num_heads=4, output_width=256, mlp_ratio=2)


def images(module: nn.Module, batch: int, channels: int = 3, size: tuple[int, int] = SIZE) -> torch.Tensor:
    device = next(module.parameters()).device
    return torch.zeros(batch, channels, *size, device=device)


def check(cost: Cost, build: Build, call: Call, *, saved: float) -> None:
    assert cost.parameters == measured_parameters(build)
    assert cost.flops == pytest.approx(measured_flops(build, call), rel=1e-9)
    assert cost.saved_bytes == pytest.approx(measured_saved_bytes(build, call), rel=saved)


@pytest.mark.parametrize("config", [PIXEL, NEAR])
def test_pixel_encoder(config: PixelConfig) -> None:
    cost = pixel_encoder_cost(config, SIZE)
    check(cost, lambda: PixelEncoder(config), lambda module, batch: module(images(module, batch)), saved=0.15)


@pytest.mark.parametrize(("config", "saved"), [(PIXEL, 0.1), (NEAR, 0.2)])
def test_pixel_decoder(config: PixelConfig, saved: float) -> None:
    def call(module: PixelDecoder, batch: int) -> object:
        codes = images(module, batch, 64, (16, 24)).requires_grad_()
        return module(codes, codes)

    check(pixel_decoder_cost(config, SIZE, 64), lambda: PixelDecoder(config, 64), call, saved=saved)


def test_vision_tower() -> None:
    cost = tower_cost(TOWER, SIZE).whole
    check(cost, lambda: VisionTower(TOWER), lambda module, batch: module(images(module, batch)), saved=0.1)


def test_coders_around_the_semantic_quantizer() -> None:
    blocks = BlocksConfig(width=128, num_heads=4, depth=2)
    config = DualViTokConfig(
        vision=TOWER, pixel=PIXEL, semantic=SemanticConfig(encoder=blocks, decoder=blocks, codebook_size=64)
    )
    encoder, decoder = semantic_coder_costs(config, SIZE)
    tower = tower_cost(TOWER, SIZE).whole.parameters
    assert encoder.parameters == measured_parameters(lambda: SemanticEncoder(config)) - tower
    assert decoder.parameters == measured_parameters(lambda: SemanticDecoder(config))
    grid = (2, 3)

    def call(module: SemanticDecoder, batch: int) -> object:
        return module(images(module, batch, config.semantic.code_width, grid))

    assert decoder.flops == measured_flops(lambda: SemanticDecoder(config), call)


def test_the_published_sizes() -> None:
    """Source: the counts of the released weights (`config.py`)."""
    config = DualViTokConfig.published()
    assert pixel_encoder_cost(config.pixel, (256, 256)).parameters == measured_parameters(
        lambda: PixelEncoder(config.pixel)
    )
    assert tower_cost(config.vision, (256, 256)).whole.parameters == measured_parameters(
        lambda: VisionTower(config.vision)
    )


def test_ends_of_the_pixel_encoder_are_what_the_third_stage_trains() -> None:
    with torch.device("meta"):
        names = dict(PixelEncoder(PIXEL).named_parameters())
    outside = sum(parameter.numel() for name, parameter in names.items() if not name.startswith("down."))
    assert pixel_encoder_ends(PIXEL).parameters == outside


@pytest.mark.parametrize("layers", [2, 3])
def test_discriminator(layers: int) -> None:
    config = DiscriminatorConfig(channels=16, layers=layers)
    assert discriminator_parameters(16, layers) == measured_parameters(lambda: PatchGan(config))
    counted = measured_flops(lambda: PatchGan(config), lambda module, batch: module(images(module, batch)))
    assert discriminator_flops(16, layers, SIZE) == counted
