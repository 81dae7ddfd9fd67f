"""The pixel branch: its norms against the plain order of operations, and its sizes."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from models.dualvitok.config import DualViTokConfig, PixelConfig
from models.dualvitok.pixel import (
    Downsample,
    Norm,
    PixelDecoder,
    PixelEncoder,
    SpatialNorm,
    Upsample,
    start_as_plain_norms,
)


def test_scale_and_shift_on_the_code_grid_equal_those_of_repeated_codes() -> None:
    torch.manual_seed(0)
    norm = SpatialNorm(Norm(8, 2), 8, 4)
    x, codes = torch.randn(2, 8, 12, 8), torch.randn(2, 4, 3, 2)
    repeated = F.interpolate(codes, size=(12, 8))
    expected = norm.norm_layer(x) * norm.conv_y(repeated) + norm.conv_b(repeated)
    torch.testing.assert_close(norm(x, codes), expected, rtol=1e-5, atol=1e-6)


def test_a_norm_that_starts_plain_scales_by_one_where_codes_are_zero() -> None:
    norm = SpatialNorm(Norm(8, 2), 8, 4)
    start_as_plain_norms(norm)
    x = torch.randn(2, 8, 12, 8)
    torch.testing.assert_close(norm(x, torch.zeros(2, 4, 3, 2)), norm.norm_layer(x))
    assert not torch.equal(norm(x, torch.ones(2, 4, 3, 2)), norm.norm_layer(x))  # codes still count


def test_images_come_back_in_their_size_and_codes_are_one_per_cell(tiny_config: DualViTokConfig) -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder(tiny_config.pixel)
    decoder = PixelDecoder(tiny_config.pixel, tiny_config.code_channels)
    images = torch.rand(1, 3, 32, 16) * 2 - 1
    with torch.no_grad():
        assert encoder(images).shape == (1, tiny_config.pixel.code_width, 4, 2)
        codes = torch.randn(1, tiny_config.code_channels, 4, 2)
        assert decoder(codes, codes).shape == images.shape


def test_without_convolutions_resampling_is_a_mean_and_a_repetition() -> None:
    down, up = Downsample(4), Upsample(4)
    for layer in (down, up):
        torch.nn.init.zeros_(layer.conv.weight)
        torch.nn.init.zeros_(layer.conv.bias)
    x = torch.randn(1, 4, 6, 4)
    torch.testing.assert_close(up(down(x))[..., ::2, ::2], F.avg_pool2d(x, 2))


def near(config: DualViTokConfig) -> PixelConfig:
    sides = {
        name: replace(side, attention_levels=())
        for name, side in (("encoder", config.pixel.encoder), ("decoder", config.pixel.decoder))
    }
    return replace(config.pixel, context="near", **sides)


@pytest.mark.parametrize("context", ["image", "near"])
def test_codes_far_from_a_change_stay_where_context_is_near(tiny_config: DualViTokConfig, context: str) -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder(near(tiny_config) if context == "near" else tiny_config.pixel)
    images = torch.rand(1, 3, 16, 512) * 2 - 1
    changed = images.clone()
    changed[..., :32] = 1.0
    with torch.no_grad():
        before, after = encoder(images)[..., -8:], encoder(changed)[..., -8:]
    assert torch.equal(before, after) == (context == "near")


def test_pixels_far_from_a_changed_code_stay_where_context_is_near(tiny_config: DualViTokConfig) -> None:
    torch.manual_seed(0)
    decoder = PixelDecoder(near(tiny_config), tiny_config.code_channels)
    codes = torch.randn(1, tiny_config.code_channels, 2, 64)
    changed = codes.clone()
    changed[..., :4] = 1.0
    with torch.no_grad():
        assert torch.equal(decoder(codes, codes)[..., -64:], decoder(changed, changed)[..., -64:])


def test_levels_that_attend_to_the_whole_image_are_refused_where_context_is_near(tiny_config: DualViTokConfig) -> None:
    with pytest.raises(ValueError, match=r"pixel.context: near, but levels \[1\] attend to the whole image"):
        replace(near(tiny_config), encoder=replace(tiny_config.pixel.encoder, attention_levels=(1,)))
