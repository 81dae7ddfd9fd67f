"""Published checkpoints, with any of the usual prefixes, become our folders and are written back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from models.dualvitok import weights as tokenizer_weights
from models.dualvitok.model import DualViTok
from models.mllm import weights as mllm_weights
from models.mllm.config import MllmConfig
from models.mllm.model import UnifiedMllm
from models.mllm.vision import VisionBranch
from models.published_weights import (
    mllm_from_published,
    mllm_to_published,
    read_checkpoint,
    tokenizer_from_published,
    vision_branch_from_tensors,
)
from models.strict_weights import WeightsError
from tests.data_pipelines.tiny_run import TOKENIZER
from tests.models.mllm.conftest import make_config


@pytest.fixture(scope="module")
def tokenizer() -> DualViTok:
    torch.manual_seed(0)
    return DualViTok(TOKENIZER).eval()


def bare(state: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def nested(state: dict[str, torch.Tensor], path: Path) -> Path:
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"model": wrapped, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    return path


def folder(state: dict[str, torch.Tensor], path: Path) -> Path:
    path.mkdir()
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2])):
        tensors = {f"vq_model.{name}": state[name].contiguous() for name in part}
        safetensors.torch.save_file(tensors, path / f"model-{number}.safetensors")
    return path


@pytest.mark.parametrize("wrap", [bare, nested, folder])
def test_a_tokenizer_is_found_below_any_prefix(
    wrap: Callable[[dict[str, torch.Tensor], Path], Path], tokenizer: DualViTok, tmp_path: Path
) -> None:
    source = wrap(tokenizer.state_dict(), tmp_path / "published")
    output = tmp_path / "ours"
    output.mkdir()
    tokenizer_from_published(source, output)
    loaded = tokenizer_weights.load(output)
    found = loaded.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in tokenizer.state_dict().items())
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert loaded.encode(images).pixel_BYX.shape == tokenizer.encode(images).pixel_BYX.shape


def test_half_precision_checkpoints_become_fp32(tokenizer: DualViTok, tmp_path: Path) -> None:
    state = {name: value.half() for name, value in tokenizer.state_dict().items()}
    tokenizer_from_published(bare(state, tmp_path / "half.pth"), tmp_path)
    assert {value.dtype for value in tokenizer_weights.load(tmp_path).state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("tied", [False, True])
def test_a_unified_model_survives_the_round_trip(tied: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = make_config(tie_embeddings=tied)
    model = UnifiedMllm(config, VisionBranch(config.vision))
    places = [tmp_path / name for name in ("ours", "published", "again")]
    for place in places:
        place.mkdir()
    mllm_weights.save(model, places[0])
    mllm_to_published(places[0], places[1])
    assert ("lm_head.weight" in read_checkpoint(places[1])) != tied
    assert json.loads((places[1] / "config.json").read_text())["num_hidden_layers"] == config.text.num_layers
    found = mllm_from_published(places[1], places[2], model.vocabulary)
    assert found.text == config.text
    assert found.tokens == config.tokens
    again = mllm_weights.load(places[2]).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_published_sizes_are_recognised() -> None:
    """By names and shapes only; the tensors are empty."""
    config = MllmConfig.published_3b()
    tensors = mllm_weights.to_published(mllm_weights.empty_model(config, with_vision=True).state_dict())
    assert vision_branch_from_tensors(tensors, where="test") == config.vision


def test_other_files_are_refused_by_name(tokenizer: DualViTok, tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    state = dict(tokenizer.state_dict())
    del state["pixel_decoder.conv_out.bias"]
    bare(state, tmp_path / "part.pth")
    for source, message in (
        ("none.pth", "no such file"),
        ("broken.pth", "cannot be read as tensors alone"),
        ("other.pth", "0 tensors named semantic_encoder.model.patch_embed.proj.weight among 1"),
        ("part.pth", "missing: 1"),
        ("", r"no \*\.safetensors in this folder"),
    ):
        with pytest.raises(WeightsError, match=message):
            tokenizer_from_published(tmp_path / source, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    with pytest.raises(WeightsError, match="expected a Hugging Face folder"):
        mllm_from_published(tmp_path / "none", tmp_path, UnifiedMllm(make_config()).vocabulary)
