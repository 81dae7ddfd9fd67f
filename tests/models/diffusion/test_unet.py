"""The networks: shapes of the published one, and calls of both kinds."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from models.diffusion.config import DecoderConfig
from models.diffusion.unet import make_unet, predict, unet_blocks
from models.recompute import recompute
from tests.models.diffusion.conftest import PLAIN, SDXL


def test_the_published_network_is_sdxl_with_68_input_channels() -> None:
    with torch.device("meta"):
        unet = make_unet(DecoderConfig.published())
    assert isinstance(unet, UNet2DConditionModel)
    assert tuple(unet.conv_in.weight.shape) == (320, 68, 3, 3)
    assert tuple(unet.add_embedding.linear_1.weight.shape) == (1280, 2816)
    # SDXL's 2,567,463,684 weights, and 64 more channels of the first convolution.
    assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684 + 64 * 320 * 9


@pytest.mark.parametrize("config", [PLAIN, SDXL], ids=["plain", "sdxl"])
def test_the_prediction_depends_on_the_resolution(config: DecoderConfig) -> None:
    torch.manual_seed(0)
    unet: Any = make_unet(config)
    inputs = torch.randn(1, config.sample_channels + config.code_channels, 8, 8)
    with torch.no_grad():
        first, second = (predict(unet, inputs, torch.tensor([10]), resolution) for resolution in (0, 1))
    assert first.shape == (1, config.sample_channels, 8, 8)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("config", [PLAIN, SDXL], ids=["plain", "sdxl"])
def test_recomputed_blocks_have_the_same_gradients_and_nearly_all_parameters(config: DecoderConfig) -> None:
    torch.manual_seed(0)
    unet: Any = make_unet(config).train()
    inputs = torch.randn(1, config.sample_channels + config.code_channels, 8, 8)
    gradients = []
    for is_recomputed in (False, True):
        if is_recomputed:
            recompute(unet_blocks(unet))
        unet.zero_grad()
        predict(unet, inputs, torch.tensor([10]), 0).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in unet.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    inside = {id(parameter) for block in unet_blocks(unet) for parameter in block.parameters()}
    sizes = [(parameter.numel(), id(parameter) in inside) for parameter in unet.parameters()]
    assert sum(size for size, is_inside in sizes if is_inside) > 0.5 * sum(size for size, _ in sizes)
