"""Published configuration dictionaries and shapes of published weights."""

import dataclasses

import pytest
import torch

from models.dualvitok.config import DiscriminatorConfig, DualViTokConfig
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.model import DualViTok
from models.dualvitok.published_config import (
    config_from_published,
    config_from_shapes,
    discriminator_config_from_shapes,
)


def test_published_dictionaries_become_our_configuration() -> None:
    pixel = {
        "ch_mult": [1, 1, 2, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [4],
        "double_z": False,
        "dropout": 0.0,
        "use_dc_up_down_blocks": True,
    }
    vision = {
        "depth": 32,
        "embed_dim": 1280,
        "num_heads": 16,
        "mlp_ratio": 4,
        "hidden_size": 3584,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "in_channels": 3,
    }
    model = {
        "semantic_encoder": {"embed_dim": 1280, "num_blocks": 4},
        "semantic_decoder": {"embed_dim": 1280, "num_blocks": 4},
        "semantic_quantizer": {"type": "SimVQ", "dim": 32, "codebook_size": 32_768},
        "pixel_quantizer": {"type": "SimVQ", "dim": 32, "codebook_size": 98_304},
        "pixel_encoder": pixel | {"ch": 128},
        "pixel_decoder": pixel | {"ch": 384},
    }
    found = config_from_published(vision, model)
    assert dataclasses.replace(found, noise=DualViTokConfig.published().noise) == DualViTokConfig.published()
    with pytest.raises(ValueError, match="plain resampling"):
        config_from_published(vision, model | {"pixel_encoder": pixel | {"ch": 128, "use_dc_up_down_blocks": False}})


def test_published_models_have_the_published_sizes_and_are_recognised_by_their_shapes() -> None:
    with torch.device("meta"):
        model, discriminator = DualViTok(DualViTokConfig.published()), PatchGan(DiscriminatorConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_345_978_979
    assert sum(parameter.numel() for parameter in model.trainable_parameters()) == 670_219_875
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_765_633
    assert config_from_shapes(shapes_of(model)) == DualViTokConfig.published()
    assert discriminator_config_from_shapes(shapes_of(discriminator)) == DiscriminatorConfig()


def shapes_of(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def test_shapes_determine_the_sizes_of_a_tokenizer(tiny_model: DualViTok) -> None:
    found = config_from_shapes(shapes_of(tiny_model))
    assert found.pixel.encoder == tiny_model.config.pixel.encoder
    assert found.pixel.decoder == tiny_model.config.pixel.decoder
    with torch.device("meta"):
        assert shapes_of(DualViTok(found)) == shapes_of(tiny_model)
    with pytest.raises(ValueError, match=r"patch_embed\.proj\.weight: no such tensor among 1"):
        config_from_shapes({"x": [1]})
