"""Measurements of pixels: hashes follow their definition, and noise is distinguished from fine patterns."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from data_pipelines.images.measures import neighbour_correlation, perceptual_hashes


def added_backwards(grey: Image.Image) -> int:
    """The perceptual hash as its definition says, in plain numbers and from the last pixel to the first."""

    def cosine(place: int, frequency: int) -> float:
        if not frequency:
            return 1 / math.sqrt(2)
        begin, end = (math.sin(math.pi * frequency * edge / 32) for edge in (place, place + 1))
        return (end - begin) * 32 / (math.pi * frequency)

    pixels = [(y, x, grey.getpixel((x, y))) for y in reversed(range(32)) for x in reversed(range(32))]
    values = [
        round(1024 / 32**2 * sum(value * cosine(x, across) * cosine(y, down) for y, x, value in pixels), 3)  # type: ignore[operator] # grey
        for down in range(8)
        for across in range(8)
    ]
    median = sorted(values[1:])[31]
    return sum(1 << (63 - place) for place, value in enumerate(values) if value > median + 24)


@pytest.mark.parametrize("kind", ["uniform", "stripes", "circle", "chequered", "ramp"])
def test_hashes_of_symmetrical_images_do_not_depend_on_the_order_of_a_sum(kind: str) -> None:
    grey = Image.new("L", (32, 32), 90)
    pen = ImageDraw.Draw(grey)
    if kind == "stripes":
        pen.rectangle((0, 8, 31, 23), fill=200)
    elif kind == "circle":
        pen.ellipse((6, 6, 25, 25), fill=230)
    elif kind == "chequered":
        grey.putdata([40 + 170 * ((x // 4 + y // 4) % 2) for y in range(32) for x in range(32)])
    elif kind == "ramp":
        grey.putdata([7 * min(x, 31 - x) for _ in range(32) for x in range(32)])
    pixels_YX, size = np.asarray(grey), (32.0, 32.0)
    expected = added_backwards(grey)
    assert perceptual_hashes(pixels_YX, size, 1) == (expected, added_backwards(ImageOps.mirror(grey)))
    assert perceptual_hashes(np.ascontiguousarray(pixels_YX.T), size, 1)[0] == added_backwards(
        grey.transpose(Image.Transpose.TRANSPOSE)
    )


@given(width=st.integers(1, 5), height=st.integers(1, 5), cell=st.integers(2, 9), seed=st.integers(0, 99))
def test_a_last_cell_counts_for_what_it_covers(width: int, height: int, cell: int, seed: int) -> None:
    """An image in cells of several pixels has the hash of its pixels, the last cells being cut anywhere."""
    rng = np.random.default_rng(seed)
    small_YX = rng.integers(0, 256, (8 + height, 8 + width), dtype=np.uint8)
    cut_y, cut_x = (int(rng.integers(0, cell)) for _ in range(2))
    large_YX = small_YX.repeat(cell, 0).repeat(cell, 1)
    large_YX = large_YX[: large_YX.shape[0] - cut_y, : large_YX.shape[1] - cut_x]
    size = large_YX.shape[1] / cell, large_YX.shape[0] / cell
    whole = large_YX.shape[1], large_YX.shape[0]
    assert perceptual_hashes(small_YX, size, 1) == perceptual_hashes(large_YX, whole, 1)


@pytest.mark.parametrize("code", range(1, 9))
def test_hashes_are_of_the_image_upright(code: int) -> None:
    stored = Image.fromarray(np.random.default_rng(code).integers(0, 256, (40, 70), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = code
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(buffer))
    found = perceptual_hashes(np.asarray(stored), stored.size, code)
    assert found == perceptual_hashes(np.asarray(turned), turned.size, 1)


def scene(side: int = 512) -> Image.Image:
    """Soft blobs of light."""
    noise = Image.effect_noise((side // 16, side // 16), 90).resize((side, side), Image.Resampling.BICUBIC)
    return ImageOps.autocontrast(noise)


def test_images_are_distinguished_from_noise_at_any_scale() -> None:
    assert neighbour_correlation(scene()) > 0.8
    assert neighbour_correlation(scene().convert("1").convert("L")) > 0.5  # dithered: its neighbours are opposites
    empty = scene()
    empty.paste(Image.effect_noise((130, 130), 25), (191, 191))  # a grainy wall in the middle
    assert neighbour_correlation(empty) > 0.5


@pytest.mark.parametrize("side", [24, 64, 130, 600])
def test_noise_stays_noise(side: int) -> None:
    grey = Image.effect_noise((side, side), 60)
    assert neighbour_correlation(grey) < 0.2
    assert neighbour_correlation(Image.merge("RGB", [grey, grey, grey])) < 0.2


def test_what_is_nearly_flat_or_tiny_is_not_called_noise() -> None:
    assert neighbour_correlation(Image.effect_noise((100, 100), 3)) == 1.0
    assert neighbour_correlation(Image.effect_noise((2, 100), 60)) == 1.0


def test_stripes_count_along_themselves() -> None:
    stripes = Image.fromarray(np.tile(np.array([[0], [255]], dtype=np.uint8), (64, 128)))
    assert neighbour_correlation(stripes) > 0.9
