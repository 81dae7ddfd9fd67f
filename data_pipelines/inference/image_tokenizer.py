"""A trained image tokenizer for PIL images: to codes and back, without a store, a language model or a dataset.

Sizes are (height, width). Legend: B batch, C channels, Y X pixel rows and columns.
"""

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from data_pipelines.images.model_input import InputSizes, input_pixels, uncropped_size
from models.dualvitok.geometry import Size, as_rgb
from models.dualvitok.model import Codes, DualViTok
from models.dualvitok.weights import load
from models.metrics.image_metrics import to_levels


class ImageTokenizer:
    """Encodes PIL images into semantic and pixel codes, and decodes codes into PIL images.

    Example:
        tokenizer = ImageTokenizer.load(Path("tokenizer"))  # the folder of a `tokenizer@1` artifact
        restored = tokenizer.decode(tokenizer.encode(Image.open("cat.jpg")))
    """

    def __init__(self, model: DualViTok) -> None:
        self.model = model
        self.sizes = replace(InputSizes(), pixel_factor=model.pixel_factor)

    @staticmethod
    def load(folder: Path, *, device: str = "cpu") -> "ImageTokenizer":
        """Raises: WeightsError: the folder holds no tokenizer, or other weights than its configuration says."""
        return ImageTokenizer(load(folder, device).eval())

    def encode(self, image: Image.Image, size: Size | None = None) -> Codes:
        """The codes of one image, as a batch of one.

        With a `size` the image is scaled and cropped to it; without one it keeps its shape, with sides rounded to
        multiples of the pixel factor and an area of 32 x 32 to 768 x 768 pixels.

        Raises: ValueError: a side of `size` is no multiple of the pixel factor.
        """
        rgb = as_rgb(image)
        fitted = size or self.input_size(rgb)
        pixels_CYX = torch.from_numpy(input_pixels(rgb, fitted, crop=size is not None))
        with torch.inference_mode():
            return self.model.encode(pixels_CYX[None].to(self._device))

    def decode(self, codes: Codes) -> Image.Image:
        """The image of the codes of one image, at the size that was encoded.

        Raises: ValueError: found codes of several images, or codes outside the codebooks.
        """
        if len(codes.semantic_BYX) != 1:
            raise ValueError(f"found the codes of {len(codes.semantic_BYX)} images, expected one; decode each alone")
        with torch.inference_mode():
            return to_image(self.model.decode(codes.to(self._device))[0])

    def input_size(self, image: Image.Image) -> Size:
        """The size (height, width) at which `encode` reads an image that keeps its shape."""
        return uncropped_size(image.height, image.width, self.sizes)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def to_image(image_CYX: torch.Tensor) -> Image.Image:
    """The PIL image of floats in [-1, 1]."""
    return Image.fromarray(to_levels(image_CYX).permute(1, 2, 0).numpy())
