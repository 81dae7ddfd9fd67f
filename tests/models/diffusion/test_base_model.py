"""A published text-to-image model, here a tiny one of its layout, becomes a decoder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from models.diffusion.base_model import adopt_base
from models.diffusion.config import DecoderConfig, UNetConfig
from models.diffusion.unet import make_unet, predict
from models.strict_weights import WeightsError

CONFIG = DecoderConfig(
    unet=UNetConfig(
        kind="sdxl", widths=(16, 32), residual_blocks=1, transformer_layers=(0, 1), head_width=8, norm_groups=8
    ),
    space="latent",
    outputs=((64, 64), (64, 32)),
    semantic_channels=4,
    pixel_channels=4,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of diffusers with 4 input channels, as SDXL is published."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    widened: Any = make_unet(CONFIG)
    UNet2DConditionModel.from_config(dict(widened.config) | {"in_channels": 4}).save_pretrained(folder / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
    ).save_pretrained(folder / "vae")
    return folder


def noisy() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def features(scale: float) -> torch.Tensor:
    return scale * torch.randn(2, CONFIG.code_channels, 8, 8, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_before_training_the_prediction_is_that_of_the_base_model_for_any_codes(base: Path, scale: float) -> None:
    plain = UNet2DConditionModel.from_pretrained(base / "unet").eval()
    decoder = adopt_base(CONFIG, base).eval()
    assert decoder.unet.get_parameter("conv_in.weight").shape[1] == 4 + CONFIG.code_channels
    steps_B = torch.tensor([10, 500])
    expected = predict(plain, noisy(), steps_B, 0)
    found = predict(decoder.unet, torch.cat([noisy(), features(scale)], dim=1), steps_B, 0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # sums over 12 instead of 4 channels, in fp32


def test_the_code_channels_learn_from_the_first_step_on(base: Path) -> None:
    decoder = adopt_base(CONFIG, base)
    inputs = torch.cat([noisy(), features(1.0)], dim=1)
    loss = predict(decoder.unet, inputs, torch.tensor([10, 500]), 0).square().sum()
    torch.autograd.backward(loss)
    first = decoder.unet.get_parameter("conv_in.weight")
    assert first.grad is not None
    assert first.grad[:, 4:].abs().sum() > 0


def test_the_autoencoder_comes_with_it_and_stays_frozen(base: Path) -> None:
    decoder = adopt_base(CONFIG, base)
    assert decoder.vae is not None
    assert not any(parameter.requires_grad for parameter in decoder.vae.parameters())
    drawn = decoder.sample(
        torch.randn(1, CONFIG.code_channels, 2, 2), height=64, width=64, steps=1, guidance=1.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert drawn.shape == (1, 3, 64, 64)


def test_a_base_of_other_sizes_is_refused(base: Path) -> None:
    wider = replace(CONFIG, unet=replace(CONFIG.unet, widths=(16, 64)))
    with pytest.raises(WeightsError, match=r"unet: does not fit the model .* nothing was loaded"):
        adopt_base(wider, base)


def test_an_inpainting_model_is_refused_as_a_base(base: Path, tmp_path: Path) -> None:
    settings = json.loads((base / "unet" / "config.json").read_text())
    UNet2DConditionModel.from_config(settings | {"in_channels": 9}).save_pretrained(tmp_path / "unet")
    with pytest.raises(WeightsError, match=r"unet: has 9 input channels, expected a text-to-image network with 4"):
        adopt_base(CONFIG, tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"unet/config\.json: cannot be read .* expected the folder of a saved"):
        adopt_base(CONFIG, tmp_path)
