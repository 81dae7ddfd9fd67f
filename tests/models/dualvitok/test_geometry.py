import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.dualvitok.geometry import (
    fit_to_anchor,
    match_anchor,
    pad_to_anchor,
    pixel_grid,
    remove_padding,
    semantic_grid,
    smart_resize,
    vit_size,
)


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
def test_the_crop_box_is_always_inside_the_resized_image(width: int, height: int) -> None:
    match = match_anchor(width, height)
    left, top, right, bottom = match.crop_box
    assert 0 <= left < right <= match.resize_wh[0]
    assert 0 <= top < bottom <= match.resize_wh[1]
    assert (bottom - top, right - left) == match.anchor
    assert 0 <= match.crop_share < 1


@pytest.mark.parametrize(
    ("size", "vit", "semantic", "pixel"),
    [
        ((256, 256), (252, 252), (9, 9), (16, 16)),
        ((384, 512), (336, 448), (12, 16), (24, 32)),
        ((768, 384), (728, 364), (26, 13), (48, 24)),
        ((320, 960), (308, 924), (11, 33), (20, 60)),
        ((96, 160), (84, 140), (3, 5), (6, 10)),
        ((16, 16), (28, 28), (1, 1), (1, 1)),
    ],
)
def test_grids(size: tuple[int, int], vit: tuple[int, int], semantic: tuple[int, int], pixel: tuple[int, int]) -> None:
    assert vit_size(*size) == vit
    assert semantic_grid(*size) == semantic
    assert pixel_grid(*size) == pixel


def test_a_side_that_is_no_multiple_of_the_factor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image of 60x64 \(HxW\): sides must be positive multiples of 16"):
        pixel_grid(60, 64)


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ((100, 200), (96, 192)),  # 6.25 and 12.5: half to even
        ((1000, 1000), (512, 512)),
        ((20, 20), (32, 32)),
    ],
)
def test_smart_resize_rounds_and_keeps_the_area_within_limits(size: tuple[int, int], found: tuple[int, int]) -> None:
    assert smart_resize(*size) == found


def test_a_thin_strip_keeps_one_unit_per_side() -> None:
    assert smart_resize(5000, 20, max_pixels=32**2) == (496, 16)


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (64, 64)])
def test_padding_is_white_and_can_be_removed(size: tuple[int, int]) -> None:
    source = Image.new("RGB", size, (10, 120, 200))
    padded = pad_to_anchor(source, (64, 96))
    assert padded.size == (96, 64)
    twice = padded.resize((192, 128), Image.Resampling.NEAREST)
    for image in (padded, twice):
        restored = np.asarray(remove_padding(image, size, (64, 96)))
        assert restored.shape == (size[1], size[0], 3)
        assert np.abs(restored.astype(int) - (10, 120, 200)).max() <= 1


def test_transparent_parts_become_white() -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert np.asarray(fit_to_anchor(image, (16, 16))).min() == 255
