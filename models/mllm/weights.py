"""Saves and loads the unified model as a folder, and converts its weights to and from their published names.

Our layout splits the token tables at the first image id; the published one has whole tables. Conversion is exact.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from models.dualvitok.weights import read_tensors
from models.mllm.config import MllmConfig
from models.mllm.model import UnifiedMllm
from models.mllm.vision import VisionBranch
from models.strict_weights import WeightsError, load_strictly

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

_TABLES = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight"}
_IMAGE_ROWS = re.compile(r"(embedding|head)\.vision")
# ours -> published, by prefix
_PREFIXES = {
    "language.layers.": "model.layers.",
    "language.norm.": "model.norm.",
    "projector.semantic.": "model.mm_projector.projector_1.",
    "projector.pixel.": "model.mm_projector.projector_2.",
    "vision.": "model.vision_tower.",
}


def save(model: UnifiedMllm, folder: Path) -> None:
    """Write `model.safetensors` and `config.json`; the same weights give the same bytes."""
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(model.config.to_json())


def load(folder: Path, device: torch.device | str = "cpu", *, dtype: torch.dtype = torch.float32) -> UnifiedMllm:
    """The model of a folder, in evaluation mode, with a vision branch if one was saved.

    Raises: WeightsError, ConfigError. Never a partial load.
    """
    config = load_config(folder)
    tensors = read_tensors(folder / WEIGHTS_FILE)
    model = empty_model(config, with_vision=any(name.startswith("vision.") for name in tensors))
    load_strictly(model, tensors, where=str(folder / WEIGHTS_FILE))
    return model.to(device=device, dtype=dtype).eval()


def load_config(folder: Path) -> MllmConfig:
    """The configuration of the model of a folder. Raises: WeightsError, ConfigError."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; expected the configuration next to the weights")
    return MllmConfig.from_json(path.read_text(), where=str(path))


def empty_model(config: MllmConfig, *, with_vision: bool) -> UnifiedMllm:
    """A model whose weights are on the meta device, to be filled by `load_strictly`."""
    with torch.device("meta"):
        model = UnifiedMllm(config, VisionBranch(config.vision) if with_vision else None)
    model.reset_positions()
    return model


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the published names. Tied models have their single table under both names, as published."""
    published = {}
    for name, tensor in tensors.items():
        table, _, part = name.partition(".")
        if table in _TABLES and part == "text":
            published[_TABLES[table]] = torch.cat([tensor, tensors[f"{table}.vision"]])
        elif table not in _TABLES:
            published[_rename(name, _PREFIXES)] = tensor
    published.setdefault(_TABLES["head"], published[_TABLES["embedding"]])
    return published


def from_published(tensors: Mapping[str, Tensor], config: MllmConfig, *, where: str) -> dict[str, Tensor]:
    """Our state dict from published names; check it with `load_strictly`.

    Unknown names stay as they are, so that the check lists them.
    Raises: WeightsError if a tied model comes with two different tables.
    """
    prefixes = {theirs: ours for ours, theirs in _PREFIXES.items()}
    tables = {theirs: ours for ours, theirs in _TABLES.items()}
    first = config.tokens.first_vision_id
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name not in tables:
            found[_rename(name, prefixes)] = tensor
        elif config.text.tie_embeddings and tables[name] == "head":
            _check_tied(tensor, tensors.get(_TABLES["embedding"]), where)
        else:
            found[f"{tables[name]}.text"], found[f"{tables[name]}.vision"] = tensor[:first], tensor[first:]
    return found


def adopt_text_model(model: UnifiedMllm, folder: Path) -> None:
    """Copy a Qwen2 or Qwen2.5 text model (a Hugging Face folder of any number of files) into decoder and text rows.

    Rows of image tokens keep their values. Raises: WeightsError if a tensor is missing, unused or of another shape.
    """
    first = model.config.tokens.first_vision_id
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(read_tensors(path))
    if model.config.text.tie_embeddings:
        tensors.pop(_TABLES["head"], None)
    for name in set(_TABLES.values()) & tensors.keys():
        if len(tensors[name]) < first:
            raise WeightsError(f"{folder}: {name} has {len(tensors[name])} rows, expected at least {first} text tokens")
    found = from_published(tensors, model.config, where=str(folder))
    adopted = {name: value for name, value in found.items() if not _IMAGE_ROWS.fullmatch(name)}
    kept = {name: value for name, value in model.state_dict().items() if _not_in_text_model(name)}
    load_strictly(model, {**kept, **adopted}, where=str(folder))


def _not_in_text_model(name: str) -> bool:
    return name.startswith(("projector.", "vision.")) or _IMAGE_ROWS.fullmatch(name) is not None


def _rename(name: str, prefixes: Mapping[str, str]) -> str:
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name


def _check_tied(head: Tensor, embedding: Tensor | None, where: str) -> None:
    if embedding is not None and not (head.data_ptr() == embedding.data_ptr() or torch.equal(head, embedding)):
        raise WeightsError(
            f"{where}: lm_head.weight differs from model.embed_tokens.weight, but text.tie_embeddings is on; "
            "load it with a configuration that has separate tables"
        )
