"""The size at which an image is fed to the image tower or tokenized, and its pixels at that size.

Sizes are (height, width). Legend: C channels, Y X pixel rows and columns.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_pipelines.datasets.samples import TASKS_WITH_TARGETS, Sample, SampleError, SampleImage
from data_pipelines.images.decoding import orientation, to_rgb, upright
from models.dualvitok.geometry import Size, as_rgb, fit_to_anchor, pixel_grid, semantic_grid, smart_resize


@dataclass(frozen=True, kw_only=True)
class InputSizes:
    """The rules of input sizes. Images of generation and editing samples are always cropped to their anchor.

    Source: facts 1.2, stage 3 limits.
    """

    pixel_factor: int = 16  # image pixels per side of one pixel code, from the image tokenizer
    min_pixels: int = 32**2  # area limits of understanding images
    max_pixels: int = 768**2
    fit_understanding_to_anchor: bool = False  # crop understanding images that have an anchor too, to share sizes

    def __post_init__(self) -> None:
        if self.pixel_factor < 1 or not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"input sizes: pixel_factor {self.pixel_factor} and {self.min_pixels} to {self.max_pixels} pixels; "
                "expected positive values, the smaller limit first"
            )


def is_cropped(sample: Sample, slot: int, sizes: InputSizes) -> bool:
    """True if image `slot` is cropped to its anchor, false if it keeps its own shape."""
    if sample.task in TASKS_WITH_TARGETS:
        return True
    return sizes.fit_understanding_to_anchor and sample.images[slot].anchor is not None


def input_size(sample: Sample, slot: int, sizes: InputSizes) -> Size:
    """The size at which image `slot` enters the tower.

    Raises: SampleError if it must be cropped and the dataset gives no anchor for it, or an anchor of odd size.
    """
    image = sample.images[slot]
    if not is_cropped(sample, slot, sizes):
        return uncropped_size(image.height, image.width, sizes)
    anchor = image_anchor(sample, slot)
    if anchor[0] % sizes.pixel_factor or anchor[1] % sizes.pixel_factor:
        raise SampleError(
            f"sample {sample.sample_id}: anchor {anchor[0]}x{anchor[1]} (HxW) of image {slot} is no multiple of the "
            f"pixel factor {sizes.pixel_factor}; curate with anchors that fit the image tokenizer"
        )
    return anchor


def uncropped_size(height: int, width: int, sizes: InputSizes) -> Size:
    """The size of an image that keeps its shape: sides rounded to multiples of the pixel factor, area within limits."""
    return smart_resize(
        height, width, factor=sizes.pixel_factor, min_pixels=sizes.min_pixels, max_pixels=sizes.max_pixels
    )


def image_anchor(sample: Sample, slot: int) -> Size:
    """Raises: SampleError if the dataset gives no anchor."""
    anchor = sample.images[slot].anchor
    if anchor is None:
        raise SampleError(
            f"sample {sample.sample_id}: image {slot} has no anchor; {sample.task} needs one, so curate it with anchors"
        )
    return anchor


def grids(size: Size, pixel_factor: int) -> tuple[Size, Size]:
    """Rows and columns of the semantic and of the pixel codes (or features) of an image of `size`."""
    return semantic_grid(*size), pixel_grid(*size, pixel_factor)


def open_upright(data: bytes, image: SampleImage, where: str) -> Image.Image:
    """The image in RGB, turned as its EXIF orientation says, decoded like in curation.

    Raises: SampleError if it cannot be decoded, or its size differs from the one that curation recorded.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if sorted(opened.size) != sorted((image.width, image.height)):
                raise SampleError(
                    f"{where}: image of {opened.width}x{opened.height}, but the dataset recorded "
                    f"{image.width}x{image.height}; its bytes were changed after curating"
                )
            opened.load()
            return upright(to_rgb(opened).convert("RGB"), orientation(opened))
    except SampleError:
        raise
    except UnidentifiedImageError as error:
        raise SampleError(f"{where}: not an image of any known format") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SampleError(f"{where}: cannot be decoded ({type(error).__name__}: {error})") from error


def input_pixels(image: Image.Image, size: Size, *, crop: bool) -> np.ndarray:
    """float32 CYX in [-1, 1]: cropped to the anchor `size` with LANCZOS, or resized to it with BICUBIC (facts 1.2)."""
    height, width = size
    fitted = fit_to_anchor(image, size) if crop else as_rgb(image).resize((width, height), Image.Resampling.BICUBIC)
    return pixels_to_input(np.asarray(fitted))


def pixels_to_input(rgb_YXC: np.ndarray) -> np.ndarray:
    """uint8 YXC to float32 CYX in [-1, 1]."""
    scaled = rgb_YXC.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
