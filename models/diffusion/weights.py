"""Saves and loads a decoder as a diffusers folder: `unet/`, `scheduler/`, `vae/` (only in latent space), `config.json`.

`config.json` is ours; folders without it are read as the published decoder. Weights load completely or not at all.
"""

import json
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from models.diffusion.config import DecoderConfig
from models.diffusion.decoder import DiffusionDecoder
from models.dualvitok.weights import read_tensors
from models.strict_weights import WeightsError, load_strictly

CONFIG_FILE = "config.json"
_PARTS = {kind.__name__: kind for kind in (UNet2DConditionModel, UNet2DModel, AutoencoderKL)}
_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
)


def save(decoder: DiffusionDecoder, folder: Path) -> None:
    """Write the folder; its parts can be loaded with diffusers alone."""
    cast(Any, decoder.unet).save_pretrained(folder / "unet")
    decoder.scheduler.save_pretrained(folder / "scheduler")
    if decoder.vae is not None:
        decoder.vae.save_pretrained(folder / "vae")
    (folder / CONFIG_FILE).write_text(decoder.config.to_json())


def load(folder: Path, device: torch.device | str = "cpu", *, dtype: torch.dtype = torch.float32) -> DiffusionDecoder:
    """The decoder of a folder, in evaluation mode. Raises: WeightsError, ConfigError."""
    return _decoder(folder, load_part(folder / "unet")).to(device=device, dtype=dtype).eval()


def load_without_network(folder: Path) -> DiffusionDecoder:
    """The decoder of a folder with its network on the meta device, to be filled from `part_files`.

    Raises: WeightsError, ConfigError.
    """
    return _decoder(folder, _empty_part(folder / "unet"))


def _decoder(folder: Path, unet: Any) -> DiffusionDecoder:
    path = folder / CONFIG_FILE
    config = DecoderConfig.published()
    if path.is_file():
        config = DecoderConfig.from_json(path.read_text(), where=str(path))
    vae = load_part(folder / "vae") if config.space == "latent" else None
    inputs, expected = unet.config.in_channels, config.sample_channels + config.code_channels
    if inputs != expected:
        raise WeightsError(f"{folder / 'unet'}: takes {inputs} channels, but {CONFIG_FILE} says {expected}")
    return DiffusionDecoder(config, unet=unet, vae=vae, scheduler=load_scheduler(folder / "scheduler"))


def load_part(folder: Path) -> Any:
    """A network of a diffusers folder, in one or several files of safetensors.

    Raises: WeightsError if it is absent, of a kind that the decoder does not use, or does not match its configuration.
    """
    part = _empty_part(folder)
    tensors: dict[str, Tensor] = {}
    for path in part_files(folder):
        tensors.update(read_tensors(path))
    load_strictly(part, tensors, where=str(folder))
    return part


def part_files(folder: Path) -> list[Path]:
    """The files of tensors of a network in a diffusers folder."""
    return sorted(folder.glob("diffusion_pytorch_model*.safetensors"))


def _empty_part(folder: Path) -> nn.Module:
    settings = _read_json(folder / "config.json")
    name = settings.get("_class_name")
    if name not in _PARTS:
        raise WeightsError(f"{folder}: holds a {name}, expected one of {', '.join(sorted(_PARTS))}")
    with torch.device("meta"):
        part: nn.Module = _PARTS[name].from_config(settings)
    return part


def load_scheduler(folder: Path) -> Any:
    """The scheduler that the folder names. Raises: WeightsError if the decoder's loop does not support it."""
    settings = _read_json(folder / "scheduler_config.json")
    name = settings.get("_class_name")
    if name not in _SCHEDULERS:
        raise WeightsError(f"{folder}: holds a {name}, expected one of {', '.join(_SCHEDULERS)}")
    return getattr(diffusers, name).from_config(settings)  # a name from the list above


def _read_json(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); expected the folder of a saved decoder") from error
    if not isinstance(settings, dict):
        raise WeightsError(f"{path}: found {type(settings).__name__}, expected an object")
    return settings
