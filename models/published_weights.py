"""Converts published checkpoints to our folders and back: any of the usual files, recognised by their tensors' names.

DualViTok has its published names in our folders too; the unified model has other names (`models.mllm.weights`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from models.dualvitok import weights as tokenizer_weights
from models.dualvitok.config import ConvolutionsConfig, DualViTokConfig, PixelConfig
from models.dualvitok.model import DualViTok
from models.dualvitok.published_config import (
    config_from_shapes,
    encoder_from_shapes,
    norm_groups_for,
    tower_from_shapes,
)
from models.dualvitok.weights import read_tensors
from models.mllm import weights as mllm_weights
from models.mllm.config import MllmConfig, TokenTableConfig, VisionBranchConfig
from models.mllm.text_model import text_config_from_published, text_config_to_published
from models.mllm.vocabulary import VisionVocabulary
from models.strict_weights import WeightsError, load_strictly

_NESTED = ("state_dict", "model", "module")  # where training checkpoints keep their weights
_TOKENIZER_MARK = "semantic_encoder.model.patch_embed.proj.weight"
_MLLM_MARK = "model.embed_tokens.weight"
_TOWER = "model.vision_tower."
_MAX_FILE_SIZE = "5GB"


def tokenizer_from_published(source: Path, output: Path) -> DualViTokConfig:
    """Write the tokenizer folder of a published DualViTok: a file, or a folder of safetensors.

    Its configuration is inferred from the shapes; noise is off. Raises: WeightsError.
    """
    tensors = _without_prefix(read_checkpoint(source), _TOKENIZER_MARK, where=str(source))
    try:
        config = config_from_shapes({name: list(tensor.shape) for name, tensor in tensors.items()})
    except ValueError as error:
        raise WeightsError(f"{source}: {error}") from error
    with torch.device("meta"):
        model = DualViTok(config)
    load_strictly(model, tensors, where=str(source))
    tokenizer_weights.save(model.float(), output)
    return config


def mllm_from_published(
    source: Path, output: Path, vocabulary: VisionVocabulary, *, vision: VisionBranchConfig | None = None
) -> MllmConfig:
    """Write the folder of the unified model from a Hugging Face folder: `config.json` and safetensors.

    The sizes of the decoder come from `config.json`, those of the vision branch from `vision` or the shapes.
    Raises: WeightsError.
    """
    settings = _settings(source)
    tensors = _without_prefix(read_checkpoint(source), _MLLM_MARK, where=str(source))
    config = MllmConfig(
        text=text_config_from_published(settings, where=str(source / "config.json")),
        tokens=TokenTableConfig(
            first_vision_id=vocabulary.first_id,
            semantic_codes=vocabulary.semantic_codes,
            pixel_codes=vocabulary.pixel_codes,
            resolutions=tuple(vocabulary.resolutions),
            rows=tensors[_MLLM_MARK].shape[0],
        ),
        vision=vision or vision_branch_from_tensors(tensors, where=str(source)),
    )
    try:
        model = mllm_weights.empty_model(config, with_vision=True)
    except ValueError as error:
        raise WeightsError(f"{source}: {error}; give the vocabulary that it was trained with") from error
    found = mllm_weights.from_published(tensors, config, where=str(source))
    load_strictly(model, found, where=str(source))
    mllm_weights.save(model, output)
    return config


def mllm_to_published(source: Path, output: Path) -> None:
    """Write a folder with the published names: safetensors of at most 5 GB each with their index, and `config.json`.

    The single table of a tied model is written once, as Hugging Face does. Raises: WeightsError, ConfigError.
    """
    model = mllm_weights.load(source)
    tensors = mllm_weights.to_published(model.state_dict())
    if model.config.text.tie_embeddings:
        del tensors["lm_head.weight"]
    save_torch_state_dict(tensors, output, max_shard_size=_MAX_FILE_SIZE)
    settings = text_config_to_published(model.config.text, rows=model.config.tokens.rows)
    (output / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def read_checkpoint(source: Path) -> dict[str, Tensor]:
    """All tensors of a file (safetensors or PyTorch, tensors only) or of a folder of safetensors.

    Raises: WeightsError if there are none.
    """
    if source.is_dir():
        tensors: dict[str, Tensor] = {}
        for path in sorted(source.glob("*.safetensors")):
            tensors.update(read_tensors(path))
        if not tensors:
            raise WeightsError(f"{source}: no *.safetensors in this folder; expected a published checkpoint")
        return tensors
    if source.suffix == ".safetensors":
        return read_tensors(source)
    try:
        found: Any = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{source}: no such file; expected a published checkpoint") from error
    except Exception as error:  # a damaged or foreign pickle can raise anything
        raise WeightsError(
            f"{source}: cannot be read as tensors alone ({type(error).__name__}); save its state dict as safetensors"
        ) from error
    for name in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    return {name: value for name, value in dict(found).items() if isinstance(value, Tensor)}


def _without_prefix(tensors: Mapping[str, Tensor], mark: str, *, where: str) -> dict[str, Tensor]:
    """The tensors under their published names, without the common prefix that wrappers add."""
    found = [name for name in tensors if name.endswith(mark)]
    if len(found) != 1:
        raise WeightsError(
            f"{where}: {len(found)} tensors named {mark} among {len(tensors)}; expected exactly one: this is another "
            "kind of model"
        )
    prefix = found[0].removesuffix(mark)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def vision_branch_from_tensors(tensors: Mapping[str, Tensor], *, where: str) -> VisionBranchConfig:
    """Sizes of the vision branch in the published state dict of a unified model. Raises: WeightsError."""
    shapes = {
        name.removeprefix(_TOWER): list(tensor.shape) for name, tensor in tensors.items() if name.startswith(_TOWER)
    }
    published = PixelConfig()
    try:
        tower = tower_from_shapes(shapes, "semantic_encoder.")
        encoder = encoder_from_shapes(shapes)
        code_width = shapes["pixel_encoder.conv_out.weight"][0]
        if (encoder, code_width) == (published.encoder, published.code_width):
            return VisionBranchConfig(tower=tower, pixel=published)
        # The unified model has no decoder of pixels; that of a tokenizer has as many levels.
        decoder = ConvolutionsConfig(
            channels=encoder.channels, channel_multipliers=encoder.channel_multipliers, attention_levels=()
        )
        groups = norm_groups_for(*encoder.widths)
        pixel = PixelConfig(encoder=encoder, decoder=decoder, norm_groups=groups, code_width=code_width)
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{where}: {error}; expected the published vision tower under {_TOWER}") from error
    return VisionBranchConfig(tower=tower, pixel=pixel)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); expected a Hugging Face folder") from error
    return dict(settings)
