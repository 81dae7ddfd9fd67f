"""Decoders as diffusers folders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

from models.diffusion.decoder import DiffusionDecoder
from models.diffusion.weights import load, save
from models.strict_weights import WeightsError
from tests.models.diffusion.conftest import PLAIN, make_decoder, random_features, rng


def test_a_folder_gives_back_the_same_decoder(decoder: DiffusionDecoder, tmp_path: Path) -> None:
    save(decoder, tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == decoder.config
    assert type(loaded.scheduler) is type(decoder.scheduler)
    before, after = decoder.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    arguments: dict[str, Any] = {"height": 64, "width": 64, "steps": 2, "guidance": 1.5}
    theirs = loaded.sample(random_features(decoder), generator=rng(), **arguments)
    ours = decoder.sample(random_features(decoder), generator=rng(), **arguments)
    # Equal weights at other memory addresses: the last bits of a convolution may differ.
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_the_parts_of_a_folder_load_with_plain_diffusers(tmp_path: Path) -> None:
    decoder = make_decoder(PLAIN)
    save(decoder, tmp_path)
    unet = UNet2DModel.from_pretrained(tmp_path / "unet")
    assert all(torch.equal(value, unet.state_dict()[name]) for name, value in decoder.unet.state_dict().items())
    assert DDIMScheduler.from_pretrained(tmp_path / "scheduler").config.prediction_type == "v_prediction"


def test_damaged_or_foreign_folders_are_refused(tmp_path: Path) -> None:
    decoder = make_decoder(PLAIN)
    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path)
    save(decoder, tmp_path)
    config = (tmp_path / "unet" / "config.json").read_text()
    (tmp_path / "unet" / "config.json").write_text(config.replace('"UNet2DModel"', '"FluxTransformer2DModel"'))
    with pytest.raises(WeightsError, match="holds a FluxTransformer2DModel, expected one of AutoencoderKL"):
        load(tmp_path)
    (tmp_path / "unet" / "config.json").write_text(config)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="missing"):
        load(tmp_path)
    save(decoder, tmp_path)
    (tmp_path / "config.json").write_text(replace(PLAIN, pixel_channels=5).to_json())
    with pytest.raises(WeightsError, match=r"takes 56 channels, but config.json says 57"):
        load(tmp_path)
