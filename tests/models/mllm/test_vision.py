"""Image features of the language model: order of mixed sizes, and a copy of the tokenizer's encoders."""

import torch

from models.mllm.model import UnifiedMllm
from models.mllm.vision import read_images
from tests.models.mllm.test_model import random_image


def test_images_of_mixed_sizes_are_read_in_order(model: UnifiedMllm) -> None:
    assert model.vision is not None
    images = [random_image((16, 32), 0), random_image((32, 32), 1), random_image((16, 32), 2)]
    for features, image in zip(read_images(model.vision, images), images, strict=True):
        alone = read_images(model.vision, [image])[0]
        torch.testing.assert_close(features.semantic_TD, alone.semantic_TD, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(features.pixel_TD, alone.pixel_TD, rtol=1e-5, atol=1e-5)
