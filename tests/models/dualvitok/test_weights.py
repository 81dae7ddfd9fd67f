import dataclasses
from pathlib import Path

import pytest
import torch

from models.dualvitok import weights
from models.dualvitok.config import DiscriminatorConfig, VisionConfig
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.model import DualViTok
from models.dualvitok.pixel import PixelEncoder
from models.dualvitok.vision_tower import VisionTower
from models.json_config import ConfigError
from models.strict_weights import WeightsError


def test_a_saved_tokenizer_loads_with_the_same_codes_and_saves_to_the_same_bytes(
    tiny_model: DualViTok, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    again.mkdir()
    weights.save(tiny_model, tmp_path)
    loaded = weights.load(tmp_path)
    weights.save(loaded, again)
    assert (tmp_path / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert loaded.config == tiny_model.config
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.semantic_encoder.model.parameters())
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(loaded.encode(images).pixel_BYX, tiny_model.encode(images).pixel_BYX)


def test_weights_of_other_sizes_are_refused_with_what_to_do(tiny_model: DualViTok, tmp_path: Path) -> None:
    weights.save(tiny_model, tmp_path)
    other = dataclasses.replace(tiny_model.config.pixel, codebook_size=128)
    (tmp_path / "config.json").write_text(dataclasses.replace(tiny_model.config, pixel=other).to_json())
    with pytest.raises(WeightsError, match=r"pixel_quantizer\.frozen_codebook \[64, 8\] instead of \[128, 8\]"):
        weights.load(tmp_path)


def test_absent_and_damaged_files_are_named(tiny_model: DualViTok, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json: no such file"):
        weights.load(tmp_path)
    weights.save(tiny_model, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        weights.load(tmp_path)
    path.unlink()
    with pytest.raises(WeightsError, match="no such file"):
        weights.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="missing keys"):
        weights.load(tmp_path)


def test_a_pretrained_tower_is_adopted_frozen(tiny_model: DualViTok, tmp_path: Path) -> None:
    tower = VisionTower(tiny_model.config.vision)
    weights.save_vision(tower, tmp_path)
    weights.adopt_vision(tiny_model, weights.load_vision(tmp_path))
    images = torch.rand(1, 3, 56, 56) * 2 - 1
    assert torch.equal(tiny_model.features(images).semantic_BTD, tower(images))
    assert not any(parameter.requires_grad for parameter in tiny_model.semantic_encoder.model.parameters())


def test_another_tower_is_not_adopted(tiny_model: DualViTok) -> None:
    tower = VisionTower(VisionConfig(depth=2, width=32, num_heads=4, output_width=48))
    with pytest.raises(WeightsError, match="use one vision configuration for both"):
        weights.adopt_vision(tiny_model, tower)


def test_a_discriminator_survives_the_round_trip(tmp_path: Path) -> None:
    discriminator = PatchGan(DiscriminatorConfig(channels=4, layers=2))
    discriminator(torch.randn(2, 3, 32, 32))
    weights.save_discriminator(discriminator, tmp_path)
    loaded = weights.load_discriminator(tmp_path)
    assert loaded.config == discriminator.config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in discriminator.state_dict().items())


def test_parts_of_a_tokenizer_are_read_alone(tiny_model: DualViTok, tmp_path: Path) -> None:
    weights.save(tiny_model, tmp_path)
    codebooks = weights.load_codebooks(tmp_path)
    codes = tiny_model.encode(torch.rand(1, 3, 32, 32) * 2 - 1)
    codebooks.check(codes)
    torch.testing.assert_close(codebooks.code_features(codes), tiny_model.code_features(codes))
    with pytest.raises(ValueError, match="these codes belong to another tokenizer"):
        codebooks.check(dataclasses.replace(codes, pixel_BYX=codes.pixel_BYX + 10**6))
    tower, encoder = VisionTower(tiny_model.config.vision), PixelEncoder(tiny_model.config.pixel)
    weights.load_encoders(tmp_path, tower, encoder)
    assert_equal(tower.state_dict(), tiny_model.semantic_encoder.model.state_dict())
    assert_equal(encoder.state_dict(), tiny_model.pixel_encoder.state_dict())
    with pytest.raises(WeightsError, match="nothing was loaded"):
        weights.load_encoders(tmp_path, tower, tower)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
