"""A trained tokenizer encodes PIL images of any kind and decodes their codes."""

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.images.model_input import pixels_to_input
from data_pipelines.inference.image_tokenizer import ImageTokenizer, to_image
from models.dualvitok.model import Codes
from models.dualvitok.weights import load
from tests.data_pipelines.tiny_run import TinyRun


@pytest.fixture(scope="module")
def tokenizer(tiny_run: TinyRun) -> ImageTokenizer:
    return ImageTokenizer.load(tiny_run.tokenizer)


def random_image(size_wh: tuple[int, int], mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(("size_wh", "read_hw"), [((64, 48), (48, 64)), ((61, 50), (48, 64)), ((9, 200), (200, 8))])
def test_an_image_keeps_its_shape(
    tokenizer: ImageTokenizer, size_wh: tuple[int, int], read_hw: tuple[int, int]
) -> None:
    image = random_image(size_wh)
    assert tokenizer.input_size(image) == read_hw
    restored = tokenizer.decode(tokenizer.encode(image))
    assert (restored.height, restored.width, restored.mode) == (*read_hw, "RGB")


@pytest.mark.parametrize("size_wh", [(4000, 3000), (3, 4)])
def test_images_of_any_area_are_read_within_the_limits(tokenizer: ImageTokenizer, size_wh: tuple[int, int]) -> None:
    height, width = tokenizer.input_size(Image.new("RGB", size_wh))
    assert (height % tokenizer.model.pixel_factor, width % tokenizer.model.pixel_factor) == (0, 0)
    assert 32**2 <= height * width <= 768**2


def test_the_codes_are_those_of_the_model(tokenizer: ImageTokenizer, tiny_run: TinyRun) -> None:
    image = random_image((64, 48))
    codes = tokenizer.encode(image)
    expected = load(tiny_run.tokenizer).encode(torch.from_numpy(pixels_to_input(np.asarray(image)))[None])
    assert torch.equal(codes.semantic_BYX, expected.semantic_BYX)
    assert torch.equal(codes.pixel_BYX, expected.pixel_BYX)


def test_with_a_size_an_image_is_cropped_to_it(tokenizer: ImageTokenizer) -> None:
    image = random_image((100, 64))
    image.paste((0, 0, 0), (0, 0, 18, 64))  # what a crop to a square removes
    image.paste((0, 0, 0), (82, 0, 100, 64))
    cropped = tokenizer.encode(image, (64, 64))
    middle = tokenizer.encode(image.crop((18, 0, 82, 64)), (64, 64))
    assert torch.equal(cropped.pixel_BYX, middle.pixel_BYX)
    assert tokenizer.decode(cropped).size == (64, 64)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_mode_are_read(tokenizer: ImageTokenizer, mode: str) -> None:
    assert tokenizer.decode(tokenizer.encode(random_image((32, 32), mode))).size == (32, 32)


def test_a_size_that_does_not_fit_and_several_images_are_refused(tokenizer: ImageTokenizer) -> None:
    with pytest.raises(ValueError, match="multiple"):
        tokenizer.encode(random_image((32, 32)), (31, 32))
    codes = tokenizer.encode(random_image((32, 32)))
    two = Codes(semantic_BYX=codes.semantic_BYX.repeat(2, 1, 1), pixel_BYX=codes.pixel_BYX.repeat(2, 1, 1))
    with pytest.raises(ValueError, match="found the codes of 2 images, expected one"):
        tokenizer.decode(two)


def test_floats_become_levels_as_published() -> None:
    levels = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]).expand(3, 1, 7)
    assert np.asarray(to_image(levels))[0, :, 0].tolist() == [0, 0, 64, 128, 191, 255, 255]
