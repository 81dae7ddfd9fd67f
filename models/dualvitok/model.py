"""DualViTok: images to two grids of codes and back; also the continuous features that the language model reads.

Images are floats [B, 3, Y, X] in [-1, 1], sides multiples of `pixel_factor`. Images of one call are independent: each
image gets the codes that it would get alone.
Letters: B batch, T tokens in raster order, C channels, Z code channels, D width, Y X rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dualvitok import geometry
from models.dualvitok.config import DualViTokConfig
from models.dualvitok.noise import perturb
from models.dualvitok.pixel import PixelDecoder, PixelEncoder
from models.dualvitok.quantizer import SimVQ
from models.dualvitok.semantic import SemanticDecoder, SemanticEncoder, semantic_target, tokens_to_map
from models.dualvitok.vision_tower import VisionBlock

_MAX_PIXELS_PER_PASS = 256 * 256  # of the images that a CPU encodes in one pass


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The tokens of a batch of equal-sized images; int64, each grid counts from 0 in its own codebook."""

    semantic_BYX: Tensor
    pixel_BYX: Tensor

    def to(self, device: torch.device | str) -> "Codes":
        return Codes(semantic_BYX=self.semantic_BYX.to(device), pixel_BYX=self.pixel_BYX.to(device))

    def __getitem__(self, index: int) -> "Codes":
        """One image, still with a batch of one."""
        return Codes(semantic_BYX=self.semantic_BYX[index : index + 1], pixel_BYX=self.pixel_BYX[index : index + 1])


@dataclass(frozen=True, kw_only=True)
class ContinuousFeatures:
    """The features of images that the language model reads: tokens in raster order.

    `semantic_BTD` is the tower's output before any normalisation, `pixel_BTZ` the pixel encoder's before
    `pixel_quant_conv`.
    """

    semantic_BTD: Tensor
    pixel_BTZ: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingOutputs:
    """The inputs of the losses for one batch."""

    images_BCYX: Tensor  # reconstruction, not clamped
    semantic_target_BTD: Tensor  # normalised tower features, no gradient
    semantic_BTD: Tensor  # their reconstruction
    semantic_codebook_loss: Tensor
    pixel_codebook_loss: Tensor
    codes: Codes


class DualViTok(nn.Module):
    """The tokenizer. Its vision tower is frozen; everything else trains."""

    def __init__(self, config: DualViTokConfig) -> None:
        super().__init__()
        self.config = config
        self.semantic_encoder = SemanticEncoder(config)
        self.semantic_quantizer = SimVQ(config.semantic.codebook_size, config.semantic.code_width)
        self.semantic_decoder = SemanticDecoder(config)
        self.pixel_encoder = PixelEncoder(config.pixel)
        self.pixel_quant_conv = nn.Conv2d(config.pixel.code_width, config.pixel.code_width, 1)
        self.pixel_quantizer = SimVQ(config.pixel.codebook_size, config.pixel.code_width)
        self.pixel_post_quant_conv = nn.Conv2d(config.code_channels, config.code_channels, 1)
        self.pixel_decoder = PixelDecoder(config.pixel, config.code_channels)
        self.semantic_encoder.model.requires_grad_(False)

    @property
    def pixel_factor(self) -> int:
        """Image pixels per side of one pixel code."""
        return self.config.pixel.factor

    def trainable_parameters(self) -> list[nn.Parameter]:
        """All but the vision tower."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def layers(self) -> list[nn.Module]:
        """Levels and blocks that train and keep nearly all activations."""
        pixel = [*self.pixel_encoder.down, self.pixel_encoder.mid, *self.pixel_decoder.up, self.pixel_decoder.mid]
        semantic = [self.semantic_encoder, self.semantic_decoder]
        return pixel + [block for coder in semantic for block in coder.modules() if isinstance(block, VisionBlock)]

    def encode(self, images_BCYX: Tensor) -> Codes:
        """Codes of equal-sized images. A CPU encodes few at a time: more do not fit its caches and are slower."""
        self._check_images(images_BCYX)
        per_pass = len(images_BCYX)
        if images_BCYX.device.type == "cpu":
            per_pass = max(1, _MAX_PIXELS_PER_PASS // images_BCYX[0, 0].numel()) if per_pass else 1
        with torch.no_grad():
            codebooks = self.semantic_quantizer.effective_codebook(), self.pixel_quantizer.effective_codebook()
            parts = [
                (
                    self.semantic_quantizer.encode(self._semantic_latents(part_BCYX)[0], codebooks[0]),
                    self.pixel_quantizer.encode(self._pixel_latents(part_BCYX), codebooks[1]),
                )
                for part_BCYX in images_BCYX.split(per_pass)
            ]
        semantic, pixel = zip(*parts, strict=True)
        return Codes(semantic_BYX=torch.cat(semantic), pixel_BYX=torch.cat(pixel))

    def encode_many(self, images_CYX: Sequence[Tensor]) -> list[Codes]:
        """Codes of images of mixed sizes, in their order, each with a batch of one; equal sizes run as one batch."""
        by_size: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(images_CYX):
            by_size.setdefault(image.shape, []).append(index)
        found: dict[int, Codes] = {}
        for indices in by_size.values():
            codes = self.encode(torch.stack([images_CYX[index] for index in indices]))
            found.update({index: codes[row] for row, index in enumerate(indices)})
        return [found[index] for index in range(len(images_CYX))]

    def compile_encoders(self, backend: str = "inductor") -> None:
        """Compile everything that `encode` runs before the codebooks, with `torch.compile`, once for each input size.

        Sums are computed in another order: codes of near ties can differ from those of the uncompiled encoders.
        """
        for module in (self.semantic_encoder, self.semantic_encoder.model, self.pixel_encoder):
            module.compile(backend=backend, dynamic=False)

    def features(self, images_BCYX: Tensor) -> ContinuousFeatures:
        """Continuous input of the language model; with gradients, if any parameter requires them."""
        self._check_images(images_BCYX)
        return ContinuousFeatures(
            semantic_BTD=self.semantic_encoder.model(images_BCYX),
            pixel_BTZ=self.pixel_encoder(images_BCYX).flatten(2).transpose(1, 2),
        )

    def code_features(self, codes: Codes) -> Tensor:
        """Merged features [B, semantic + pixel channels, Y, X] on the pixel grid, fp32: the input of both decoders.

        Raises: ValueError for codes outside the codebooks.
        """
        return merge_features(
            self.semantic_quantizer.decode(codes.semantic_BYX), self.pixel_quantizer.decode(codes.pixel_BYX)
        )

    def decode(self, codes: Codes) -> Tensor:
        """Images [B, 3, Y, X] in [-1, 1], not clamped."""
        return self.decode_features(self.code_features(codes))

    def decode_features(self, merged_BZYX: Tensor) -> Tensor:
        """Images of merged features (`code_features`)."""
        merged_BZYX = merged_BZYX.to(self.pixel_post_quant_conv.weight.dtype)
        images: Tensor = self.pixel_decoder(self.pixel_post_quant_conv(merged_BZYX), merged_BZYX)
        return images

    def decode_semantic(self, codes: Codes) -> Tensor:
        """Reconstructed normalised tower features [B, T, D]."""
        features: Tensor = self.semantic_decoder(self.semantic_quantizer.decode(codes.semantic_BYX))
        return features

    def training_step_outputs(self, images_BCYX: Tensor, generator: torch.Generator | None = None) -> TrainingOutputs:
        """Reconstructions and codebook losses of one batch; the same as calling the module.

        Pixel features are perturbed as `config.noise` says, only in training mode, with draws from `generator`.
        """
        outputs: TrainingOutputs = self(images_BCYX, generator)
        return outputs

    def forward(self, images_BCYX: Tensor, generator: torch.Generator | None = None) -> TrainingOutputs:
        self._check_images(images_BCYX)
        latents, target_BTD = self._semantic_latents(images_BCYX)
        semantic = self.semantic_quantizer(latents)
        pixel = self.pixel_quantizer(self._pixel_latents(images_BCYX))
        pixel_features = (
            perturb(pixel.features_BZYX, self.config.noise, generator) if self.training else pixel.features_BZYX
        )
        return TrainingOutputs(
            images_BCYX=self.decode_features(merge_features(semantic.features_BZYX, pixel_features)),
            semantic_target_BTD=target_BTD,
            semantic_BTD=self.semantic_decoder(semantic.features_BZYX),
            semantic_codebook_loss=semantic.loss,
            pixel_codebook_loss=pixel.loss,
            codes=Codes(semantic_BYX=semantic.codes_BYX, pixel_BYX=pixel.codes_BYX),
        )

    def _semantic_latents(self, images_BCYX: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B, Z, Y, X] and the target [B, T, D]; no gradient into the frozen tower."""
        grid = geometry.semantic_grid(images_BCYX.shape[2], images_BCYX.shape[3])
        with torch.no_grad():
            target_BTD = semantic_target(self.semantic_encoder.model(images_BCYX))
        return self.semantic_encoder(target_BTD, grid), target_BTD

    def _pixel_latents(self, images_BCYX: Tensor) -> Tensor:
        latents: Tensor = self.pixel_quant_conv(self.pixel_encoder(images_BCYX))
        return latents

    def _check_images(self, images_BCYX: Tensor) -> None:
        if images_BCYX.ndim != 4 or images_BCYX.shape[1] != 3 or not images_BCYX.is_floating_point():
            raise ValueError(
                f"images: {images_BCYX.dtype} {tuple(images_BCYX.shape)}; expected floats [B, 3, Y, X] in [-1, 1]"
            )
        geometry.pixel_grid(images_BCYX.shape[2], images_BCYX.shape[3], self.pixel_factor)


class Codebooks(nn.Module):
    """The quantizers of a tokenizer alone, under the names that they have there."""

    def __init__(self, config: DualViTokConfig) -> None:
        super().__init__()
        self.semantic_quantizer = SimVQ(config.semantic.codebook_size, config.semantic.code_width)
        self.pixel_quantizer = SimVQ(config.pixel.codebook_size, config.pixel.code_width)

    def check(self, codes: Codes) -> None:
        """Raises: ValueError for codes outside the codebooks. Waits for the device that they are on."""
        self.semantic_quantizer.check_codes(codes.semantic_BYX)
        self.pixel_quantizer.check_codes(codes.pixel_BYX)

    def code_features(self, codes: Codes) -> Tensor:
        """As those of the whole tokenizer, of codes that were checked."""
        semantic_BZYX = self.semantic_quantizer.look_up(codes.semantic_BYX)
        return merge_features(semantic_BZYX, self.pixel_quantizer.look_up(codes.pixel_BYX))


def merge_features(semantic_BZYX: Tensor, pixel_BZYX: Tensor) -> Tensor:
    """Both kinds of features on the pixel grid, semantic channels first and resized bicubically; fp32."""
    size = pixel_BZYX.shape[2:]
    semantic = F.interpolate(semantic_BZYX.float(), size=size, mode="bicubic", align_corners=False)
    return torch.cat([semantic, pixel_BZYX.float()], dim=1)


def semantic_map(features_BTD: Tensor, images_BCYX: Tensor) -> Tensor:
    """Tower features or their reconstruction as a map [B, D, Y, X] on the semantic grid of the images."""
    return tokens_to_map(features_BTD, geometry.semantic_grid(images_BCYX.shape[2], images_BCYX.shape[3]))
