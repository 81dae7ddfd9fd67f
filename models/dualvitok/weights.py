"""Saves and loads a tokenizer, a vision tower or a discriminator as a folder: safetensors and a JSON configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models import json_config
from models.dualvitok.config import DiscriminatorConfig, DualViTokConfig, VisionConfig
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.model import Codebooks, DualViTok
from models.dualvitok.vision_tower import VisionTower
from models.strict_weights import WeightsError, load_strictly

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
DISCRIMINATOR_FILE = "discriminator.safetensors"
DISCRIMINATOR_CONFIG_FILE = "discriminator.json"
VISION_PREFIX = "semantic_encoder.model."  # of the tower's tensors in a tokenizer


def save(model: DualViTok, folder: Path) -> None:
    """Write the published state-dict layout and the configuration; the same weights give the same bytes."""
    _write(model, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(model.config.to_json())


def load(folder: Path, device: torch.device | str = "cpu", *, dtype: torch.dtype = torch.float32) -> DualViTok:
    """The tokenizer of a folder, in evaluation mode; quantizers stay in fp32 for any `dtype`.

    Raises: WeightsError, ConfigError. Never a partial load.
    """
    model = empty_model(load_config(folder))
    load_strictly(model, read_tensors(folder / WEIGHTS_FILE), where=str(folder / WEIGHTS_FILE))
    return model.to(device=device, dtype=dtype).eval()


def empty_model(config: DualViTokConfig) -> DualViTok:
    """A tokenizer whose weights are on the meta device, to be filled by `load_strictly` or slice by slice."""
    with torch.device("meta"):
        return DualViTok(config)


def load_config(folder: Path) -> DualViTokConfig:
    """The sizes of a tokenizer's folder. Raises: WeightsError, ConfigError."""
    return DualViTokConfig.from_json(_read_text(folder / CONFIG_FILE), where=str(folder / CONFIG_FILE))


def load_codebooks(folder: Path, device: torch.device | str = "cpu") -> Codebooks:
    """The frozen codebooks of a tokenizer's folder; no other tensor is read. Raises: WeightsError, ConfigError."""
    with torch.device("meta"):
        codebooks = Codebooks(load_config(folder))
    path = folder / WEIGHTS_FILE
    load_strictly(codebooks, read_parts(path, ("semantic_quantizer.", "pixel_quantizer.")), where=str(path))
    return codebooks.to(device=device).eval().requires_grad_(False)


def load_encoders(folder: Path, tower: nn.Module, pixel_encoder: nn.Module) -> None:
    """Copy the image encoders of a tokenizer's folder, and read no other tensor. Raises: WeightsError."""
    path = folder / WEIGHTS_FILE
    for prefix, module in ((VISION_PREFIX, tower), ("pixel_encoder.", pixel_encoder)):
        tensors = read_parts(path, (prefix,))
        load_strictly(module, {name.removeprefix(prefix): value for name, value in tensors.items()}, where=str(path))


def save_vision(tower: VisionTower, folder: Path) -> None:
    """Write a tower, with the names below `semantic_encoder.model.` of the published layout."""
    _write(tower, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json_config.to_json(tower.config))


def load_vision(folder: Path, device: torch.device | str = "cpu") -> VisionTower:
    """The tower of a folder in fp32. Raises: WeightsError, ConfigError."""
    with torch.device("meta"):
        tower = VisionTower(load_vision_config(folder))
    load_strictly(tower, read_tensors(folder / WEIGHTS_FILE), where=str(folder / WEIGHTS_FILE))
    return tower.to(device=device, dtype=torch.float32).eval()


def load_vision_config(folder: Path) -> VisionConfig:
    """The sizes of a tower's folder. Raises: WeightsError, ConfigError."""
    path = folder / CONFIG_FILE
    return json_config.from_json(VisionConfig, _read_text(path), where=str(path))


def check_vision(model: DualViTok, tower: VisionConfig) -> None:
    """Raises: WeightsError if the tokenizer was configured for another tower."""
    if tower != model.config.vision:
        raise WeightsError(
            f"vision tower: found {tower}, expected {model.config.vision}; use one vision configuration for both"
        )


def adopt_vision(model: DualViTok, tower: VisionTower) -> None:
    """Copy a pre-trained tower into a tokenizer, frozen. Raises: WeightsError: see `check_vision`."""
    check_vision(model, tower.config)
    model.semantic_encoder.model.load_state_dict(tower.state_dict(), strict=True)
    model.semantic_encoder.model.requires_grad_(False)


def save_discriminator(discriminator: PatchGan, folder: Path) -> None:
    _write(discriminator, folder / DISCRIMINATOR_FILE)
    (folder / DISCRIMINATOR_CONFIG_FILE).write_text(json_config.to_json(discriminator.config))


def load_discriminator(folder: Path, device: torch.device | str = "cpu") -> PatchGan:
    """Raises: WeightsError, ConfigError."""
    where = str(folder / DISCRIMINATOR_CONFIG_FILE)
    config = json_config.from_json(DiscriminatorConfig, _read_text(folder / DISCRIMINATOR_CONFIG_FILE), where=where)
    discriminator = PatchGan(config)
    tensors = read_tensors(folder / DISCRIMINATOR_FILE)
    load_strictly(discriminator, tensors, where=str(folder / DISCRIMINATOR_FILE))
    return discriminator.to(device)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises: WeightsError if it is absent or damaged."""
    return read_parts(path, ("",))


def read_parts(path: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose names begin with one of `prefixes`.

    Raises: WeightsError if it is absent or damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names if name.startswith(prefixes)}
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; expected the weights of a finished training") from error
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error}); copy or make it again") from error


def _write(module: nn.Module, path: Path) -> None:
    tensors: Mapping[str, Any] = {name: value.detach().contiguous() for name, value in module.state_dict().items()}
    safetensors.torch.save_file(dict(tensors), path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; expected the configuration next to the weights") from error
