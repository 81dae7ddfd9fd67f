"""Tiny diffusion decoders: the plain network on pixels, and the published layout with few channels."""

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from models.diffusion.config import DecoderConfig, NoiseSchedule, UNetConfig
from models.diffusion.decoder import DiffusionDecoder

PLAIN = DecoderConfig(
    unet=UNetConfig(
        kind="plain", widths=(16, 32), residual_blocks=1, transformer_layers=(0, 1), head_width=8, norm_groups=8
    ),
    space="pixel",
    outputs=((64, 64), (64, 32)),
    semantic_channels=4,
    pixel_channels=4,
    code_px=8,
    cell_px=4,
    schedule=NoiseSchedule(solver="ddim", prediction="v_prediction", betas="squaredcos_cap_v2", zero_terminal_snr=True),
)
# The published layout with few channels.
SDXL = DecoderConfig(
    unet=UNetConfig(
        kind="sdxl", widths=(16, 32), residual_blocks=1, transformer_layers=(0, 1), head_width=8, norm_groups=8
    ),
    space="latent",
    outputs=((64, 64), (64, 32)),
    semantic_channels=4,
    pixel_channels=4,
)


def make_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.13025,
    )


def make_decoder(config: DecoderConfig) -> DiffusionDecoder:
    torch.manual_seed(0)
    return DiffusionDecoder(config, vae=make_vae() if config.space == "latent" else None)


@pytest.fixture(params=[PLAIN, SDXL], ids=["plain", "sdxl"])
def decoder(request: pytest.FixtureRequest) -> DiffusionDecoder:
    return make_decoder(request.param)


def random_features(decoder: DiffusionDecoder, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    side = decoder.config.code_px * 2
    return torch.randn(batch, 8, height // side, width // side, generator=torch.Generator().manual_seed(7))


def random_images(batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(8)) * 2 - 1


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
