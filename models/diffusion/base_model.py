"""Starts the diffusion decoder from a published text-to-image model, with the first layer widened for the codes."""

from pathlib import Path

import torch
from torch import nn

from models.diffusion.config import DecoderConfig
from models.diffusion.decoder import DiffusionDecoder
from models.diffusion.unet import make_unet
from models.diffusion.weights import load_part
from models.strict_weights import WeightsError, load_strictly


def adopt_base(config: DecoderConfig, folder: Path) -> DiffusionDecoder:
    """A decoder with the network and autoencoder of a diffusers folder (`unet/`, `vae/`).

    The first convolution's weights for the code channels start at zero, so the first step equals the base model's.
    Raises: WeightsError if the base has other sizes or more inputs than the noisy image.
    """
    base = load_part(folder / "unet")
    tensors = dict(base.state_dict())
    first = tensors.get("conv_in.weight")
    if first is None or first.shape[1] != config.sample_channels:
        found = "no first layer" if first is None else f"{first.shape[1]} input channels"
        raise WeightsError(
            f"{folder / 'unet'}: has {found}, expected a text-to-image network with {config.sample_channels}; "
            "an inpainting or upscaling model cannot be the base"
        )
    widened = first.new_zeros(first.shape[0], config.sample_channels + config.code_channels, *first.shape[2:])
    widened[:, : first.shape[1]] = first
    tensors["conv_in.weight"] = widened
    with torch.device("meta"):
        unet: nn.Module = make_unet(config)
    load_strictly(unet, tensors, where=str(folder / "unet"))
    vae = load_part(folder / "vae") if config.space == "latent" else None
    return DiffusionDecoder(config, unet=unet, vae=vae)
