"""The semantic branch around its quantizer."""

import torch

from models.dualvitok.config import DualViTokConfig
from models.dualvitok.semantic import SemanticDecoder, SemanticEncoder, map_to_tokens, semantic_target, tokens_to_map


def test_tokens_and_maps_convert_in_raster_order() -> None:
    tokens = torch.arange(12.0).view(1, 6, 2)
    grid = tokens_to_map(tokens, (2, 3))
    assert grid[0, 0].tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
    assert torch.equal(map_to_tokens(grid), tokens)


def test_targets_are_normalised_in_fp32() -> None:
    target = semantic_target(torch.randn(2, 5, 48, dtype=torch.bfloat16) * 7 + 3)
    assert target.dtype == torch.float32
    torch.testing.assert_close(target.mean(-1), torch.zeros(2, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(target.std(-1, correction=0), torch.ones(2, 5), rtol=0, atol=1e-3)


def test_latents_lie_on_the_grid_and_decode_to_tower_features(tiny_config: DualViTokConfig) -> None:
    torch.manual_seed(0)
    encoder, decoder = SemanticEncoder(tiny_config), SemanticDecoder(tiny_config)
    target = semantic_target(torch.randn(2, 6, tiny_config.vision.output_width))
    with torch.no_grad():
        latents = encoder(target, (2, 3))
        assert latents.shape == (2, tiny_config.semantic.code_width, 2, 3)
        assert decoder(latents).shape == target.shape
