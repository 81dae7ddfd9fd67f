"""The size and pixels at which images are fed to a model, and the samples that cannot be."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets.samples import Sample, SampleError, SampleImage
from data_pipelines.images.model_input import InputSizes, grids, input_pixels, input_size, open_upright, pixels_to_input

ANCHORED = SampleImage(width=100, height=70, anchor=(64, 96))
FREE = SampleImage(width=100, height=70)


def sample(task: str, image: SampleImage) -> Sample:
    return Sample(sample_id="ab" * 32, task=task, turns=(), images=(image,))


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(buffer, "JPEG", exif=exif.tobytes())
    return buffer.getvalue()


def test_generated_images_have_the_size_of_their_anchor_and_others_keep_their_shape() -> None:
    assert input_size(sample("generation", ANCHORED), 0, InputSizes()) == (64, 96)
    assert input_size(sample("understanding", ANCHORED), 0, InputSizes(fit_understanding_to_anchor=True)) == (64, 96)
    height, width = input_size(sample("understanding", ANCHORED), 0, InputSizes())
    assert (height % 16, width % 16) == (0, 0)
    assert width / height == pytest.approx(100 / 70, rel=0.15)
    assert input_size(sample("understanding", FREE), 0, InputSizes(fit_understanding_to_anchor=True)) == (height, width)
    assert grids((64, 96), 16)[1] == (4, 6)


def test_a_generated_image_without_a_fitting_anchor_is_an_error() -> None:
    with pytest.raises(SampleError, match="image 0 has no anchor; editing needs one"):
        input_size(sample("editing", FREE), 0, InputSizes())
    odd = SampleImage(width=100, height=70, anchor=(60, 96))
    with pytest.raises(SampleError, match=r"anchor 60x96 .* is no multiple of the pixel factor 16"):
        input_size(sample("generation", odd), 0, InputSizes())


@pytest.mark.parametrize("change", [{"pixel_factor": 0}, {"min_pixels": 0}, {"min_pixels": 9, "max_pixels": 8}])
def test_impossible_limits_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected positive values, the smaller limit first"):
        InputSizes(**change)


def test_images_are_opened_upright() -> None:
    image = Image.new("RGB", (100, 70), (255, 0, 0))
    turned = open_upright(jpeg(image, orientation=6), SampleImage(width=70, height=100), "here")
    assert (turned.mode, turned.size) == ("RGB", (70, 100))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no image", "here: not an image of any known format"),
        (jpeg(Image.new("RGB", (90, 70))), "here: image of 90x70, but the dataset recorded 100x70"),
        (jpeg(Image.effect_noise((100, 70), 50))[:-2000], r"here: cannot be decoded \(OSError"),
    ],
)
def test_an_image_that_changed_after_curation_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        open_upright(data, FREE, "here")


def test_pixels_range_from_minus_one_to_one() -> None:
    image = Image.new("RGB", (50, 40), (255, 0, 0))
    for crop in (True, False):
        pixels_CYX = input_pixels(image, (32, 48), crop=crop)
        assert (pixels_CYX.shape, pixels_CYX.dtype) == ((3, 32, 48), np.float32)
        assert [float(channel.min()) for channel in pixels_CYX] == [1.0, -1.0, -1.0]
    middle = pixels_to_input(np.full((1, 1, 3), 128, np.uint8))
    assert middle.ravel().tolist() == pytest.approx([0.5 / 127.5] * 3, abs=1e-6)  # float32
