import json
from pathlib import Path

import pytest
import torch
from torch import nn

from models.diffusion.config import DecoderConfig, UNetConfig
from models.diffusion.cost import autoencoder_cost, unet_cost
from models.diffusion.unet import make_unet, predict
from tests.models.measured import measured_flops, measured_parameters, measured_saved_bytes

SDXL = DecoderConfig(
    unet=UNetConfig(kind="sdxl", widths=(64, 128), residual_blocks=1, transformer_layers=(0, 2)),
    space="latent",
    outputs=((256, 128),),
)
PLAIN = DecoderConfig(
    unet=UNetConfig(kind="plain", widths=(64, 128, 128), residual_blocks=2, transformer_layers=(0, 1, 1)),
    space="pixel",
    outputs=((256, 128), (128, 128)),
)


@pytest.mark.parametrize("config", [SDXL, PLAIN], ids=["sdxl", "plain"])
def test_arithmetic_equals_the_real_network(config: DecoderConfig) -> None:
    size = config.outputs[0]

    def call(module: nn.Module, batch: int) -> object:
        device = next(module.parameters()).device
        channels = config.sample_channels + config.code_channels
        cells = [side // config.cell_px for side in size]
        return predict(
            module, torch.zeros(batch, channels, *cells, device=device), torch.zeros(batch, device=device), 0
        )

    cost = unet_cost(config, size)
    assert cost.parameters == measured_parameters(lambda: make_unet(config))
    assert cost.flops == pytest.approx(measured_flops(lambda: make_unet(config), call), rel=1e-9)
    assert cost.saved_bytes == pytest.approx(measured_saved_bytes(lambda: make_unet(config), call), rel=0.1)


def test_published_network_has_its_published_size() -> None:
    assert unet_cost(DecoderConfig.published(), (512, 512)).parameters == 2_567_648_004


def test_flops_of_sdxl_are_those_counted_elsewhere(shared: Path) -> None:
    rows = json.loads((shared / "reference" / "planner" / "flops_torch_counter.json").read_text())
    plain = {(row["model"], row.get("px")): row for row in rows}
    for px in (512, 768, 1024):
        cost, published = unet_cost(DecoderConfig.published(), (px, px)), plain["sdxl-unet", px]
        code_channels = 64  # that our first convolution reads beside the latents
        assert cost.flops - 2 * 9 * code_channels * 320 * (px // 8) ** 2 == published["fwd_flops"]
        assert cost.parameters - 9 * code_channels * 320 == published["params"]
    for px in (256, 512, 1024):
        assert autoencoder_cost((px, px)).flops == plain["sdxl-vae", px]["encode_flops"]
