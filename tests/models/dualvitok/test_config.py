import pytest

from models.dualvitok.config import (
    BlocksConfig,
    ConvolutionsConfig,
    DualViTokConfig,
    PixelConfig,
    VisionConfig,
)
from models.json_config import ConfigError


def test_json_gives_the_same_configuration_back(tiny_config: DualViTokConfig) -> None:
    for config in (tiny_config, DualViTokConfig.published()):
        assert DualViTokConfig.from_json(config.to_json()) == config


def test_unknown_keys_are_named_with_their_place(tiny_config: DualViTokConfig) -> None:
    broken = tiny_config.to_json().replace('"norm_groups"', '"groups"')
    with pytest.raises(
        ConfigError, match=r"config.json.pixel: unknown keys \['groups'\], missing keys \['norm_groups'\]"
    ):
        DualViTokConfig.from_json(broken)


def test_the_factor_follows_from_the_levels(tiny_config: DualViTokConfig) -> None:
    assert tiny_config.pixel.factor == 8
    assert DualViTokConfig.published().pixel.factor == 16


def side(channels: int = 32, *, levels: int = 5) -> ConvolutionsConfig:
    return ConvolutionsConfig(channels=channels, channel_multipliers=(1,) * levels, attention_levels=())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VisionConfig(width=100, num_heads=16), "vision.width: 100 over 16 heads"),
        (lambda: BlocksConfig(width=96, num_heads=16), "rotary positions need heads of a multiple of 4"),
        (lambda: ConvolutionsConfig(channels=32, attention_levels=(5,)), r"no level \[5\] among 5 levels"),
        (lambda: ConvolutionsConfig(channels=32, channel_multipliers=(1,), attention_levels=()), "at least two"),
        (lambda: PixelConfig(encoder=side(levels=4), decoder=side()), "4 levels before the codes and 5 after"),
        (lambda: PixelConfig(encoder=side(48), decoder=side()), "multiples of 4 and of norm_groups"),
        (lambda: PixelConfig(encoder=side(), decoder=side(), code_width=24), "24 does not divide the 32 channels"),
        (
            lambda: DualViTokConfig(pixel=PixelConfig(encoder=side(), decoder=side(96), code_width=32)),
            "pixel.decoder: 96 channels at the last level, expected a multiple of the 64",
        ),
    ],
)
def test_sizes_that_cannot_work_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
