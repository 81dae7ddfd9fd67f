"""The parts of the tokenizer with which the language model reads images: vision tower and pixel encoder.

Letters: B batch, T positions of one image, D feature width, C channels, Y X pixel rows and columns.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.dualvitok.model import ContinuousFeatures, DualViTok
from models.dualvitok.pixel import PixelEncoder
from models.dualvitok.vision_tower import VisionTower
from models.mllm.config import VisionBranchConfig


class ImageFeatures(NamedTuple):
    """Continuous features of one image, positions in raster order."""

    semantic_TD: Tensor  # merger output, before the target norm
    pixel_TD: Tensor  # encoder output, before the convolution of the pixel quantizer


class ImageReader(Protocol):
    """A `VisionBranch` or a whole `DualViTok`."""

    def features(self, images_BCYX: Tensor) -> ContinuousFeatures: ...


class VisionBranch(nn.Module):
    """Vision tower and pixel encoder under their published names."""

    def __init__(self, config: VisionBranchConfig) -> None:
        super().__init__()
        self.config = config
        self.semantic_encoder = VisionTower(config.tower)
        self.pixel_encoder = PixelEncoder(config.pixel)

    @staticmethod
    def of(tokenizer: DualViTok) -> "VisionBranch":
        """A copy of a tokenizer's encoders, frozen."""
        config = VisionBranchConfig(tower=tokenizer.config.vision, pixel=tokenizer.config.pixel)
        branch = VisionBranch(config)
        branch.semantic_encoder.load_state_dict(tokenizer.semantic_encoder.model.state_dict())
        branch.pixel_encoder.load_state_dict(tokenizer.pixel_encoder.state_dict())
        return branch.requires_grad_(False)

    def features(self, images_BCYX: Tensor) -> ContinuousFeatures:
        """Features of images in [-1, 1] of one size; with gradients, if any parameter requires them."""
        return ContinuousFeatures(
            semantic_BTD=self.semantic_encoder(images_BCYX),
            pixel_BTZ=self.pixel_encoder(images_BCYX).flatten(2).transpose(1, 2),
        )

    def empty_features(self) -> ImageFeatures:
        """Features without positions that keep every weight in the graph, from the smallest image possible."""
        side = self.config.pixel.factor
        weight = self.pixel_encoder.conv_in.weight
        batch = self.features(weight.new_zeros(1, 3, side, side))
        return ImageFeatures(batch.semantic_BTD[0, :0], batch.pixel_BTZ[0, :0])


def read_images(reader: ImageReader, images: Sequence[Tensor]) -> list[ImageFeatures]:
    """Features of images [C,Y,X] of mixed sizes, in their order; images of equal size form one batch."""
    by_size: dict[torch.Size, list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(index)
    features: dict[int, ImageFeatures] = {}
    for indices in by_size.values():
        batch = reader.features(torch.stack([images[index] for index in indices]))
        for row, index in enumerate(indices):
            features[index] = ImageFeatures(batch.semantic_BTD[row], batch.pixel_BTZ[row])
    return [features[index] for index in range(len(images))]
