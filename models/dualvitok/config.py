"""Every size of DualViTok as frozen values; the published model is one constructor call.

Source: ILLUME+ released configurations (both share one model), arXiv 2504.01934 section 3.1.
"""

from dataclasses import dataclass, field
from typing import Literal

from models import json_config


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Qwen2-VL vision tower. Defaults are the published 600M tower."""

    depth: int = 32
    width: int = 1280
    num_heads: int = 16
    mlp_ratio: int = 4
    output_width: int = 3584  # of the merger: one vector per 2x2 patches
    patch_px: int = 14
    temporal_patch: int = 2  # a still image is repeated this often
    merge: int = 2  # patches per side of one output vector
    channels: int = 3

    def __post_init__(self) -> None:
        _check_heads("vision", self.width, self.num_heads)


@dataclass(frozen=True, kw_only=True)
class BlocksConfig:
    """Transformer blocks on one side of the semantic quantizer."""

    width: int = 1280
    num_heads: int = 16  # fixed at 16 in the published code, whatever the tower has
    mlp_ratio: int = 4
    depth: int = 4

    def __post_init__(self) -> None:
        _check_heads("semantic", self.width, self.num_heads)


@dataclass(frozen=True, kw_only=True)
class SemanticConfig:
    """Transformer blocks before and after the semantic quantizer, and its codebook."""

    encoder: BlocksConfig = field(default_factory=BlocksConfig)
    decoder: BlocksConfig = field(default_factory=BlocksConfig)
    code_width: int = 32
    codebook_size: int = 32_768


@dataclass(frozen=True, kw_only=True)
class ConvolutionsConfig:
    """Convolutions on one side of the pixel quantizer; the resolution halves between levels."""

    channels: int
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)  # per level, from full resolution
    residual_blocks: int = 2  # per level; the decoder adds one
    attention_levels: tuple[int, ...] = (4,)  # 0 = full resolution

    def __post_init__(self) -> None:
        levels = len(self.channel_multipliers)
        if levels < 2:
            raise ValueError(f"channel_multipliers: {levels} levels, expected at least two")
        unknown = [level for level in self.attention_levels if not 0 <= level < levels]
        if unknown:
            raise ValueError(f"attention_levels: no level {unknown} among {levels} levels (counted from 0)")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level."""
        return tuple(self.channels * multiplier for multiplier in self.channel_multipliers)


@dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """MoVQ-like convolutional encoder and decoder, and the pixel codebook."""

    encoder: ConvolutionsConfig = field(default_factory=lambda: ConvolutionsConfig(channels=128))
    decoder: ConvolutionsConfig = field(default_factory=lambda: ConvolutionsConfig(channels=384))
    norm_groups: int = 32
    code_width: int = 32
    codebook_size: int = 98_304
    # What a code, and a pixel made of codes, depends on. As published: on the whole image, as norms take their
    # statistics over it and positions attend to each other. "near": on what is near it alone, so that a change in one
    # corner leaves the codes of the others as they are, which a small language model needs to copy them.
    context: Literal["image", "near"] = json_config.added("image")

    def __post_init__(self) -> None:
        if len(self.encoder.widths) != len(self.decoder.widths):
            raise ValueError(
                f"pixel: {len(self.encoder.widths)} levels before the codes and {len(self.decoder.widths)} after; "
                "the image would come back in another size"
            )
        for side, widths in (("encoder", self.encoder.widths), ("decoder", self.decoder.widths)):
            bad = [width for width in widths if width % self.norm_groups or width % 4]
            if bad:
                raise ValueError(
                    f"pixel.{side}: levels of {bad} channels, expected multiples of 4 and of norm_groups "
                    f"({self.norm_groups})"
                )
        if self.encoder.widths[-1] % self.code_width:
            raise ValueError(
                f"pixel.code_width: {self.code_width} does not divide the {self.encoder.widths[-1]} channels "
                "of the encoder's last level"
            )
        attending = [*self.encoder.attention_levels, *self.decoder.attention_levels]
        if self.context == "near" and attending:
            raise ValueError(
                f"pixel.context: near, but levels {sorted(set(attending))} attend to the whole image; set "
                "attention_levels: [] in encoder and decoder"
            )

    @property
    def factor(self) -> int:
        """Image pixels per side of one pixel code: 16 for five levels."""
        return int(2 ** (len(self.encoder.widths) - 1))


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Perturbation of pixel codes while training (published: fixed-256 phase 0.1 and 0.1, any-resolution phase off)."""

    kind: Literal["none", "random", "zero"] = "none"
    sample_share: float = 0.1  # share of images that are perturbed
    token_share: float = 0.1  # share of codes replaced in those


@dataclass(frozen=True, kw_only=True)
class DualViTokConfig:
    """The whole tokenizer. `DualViTokConfig()` is the published model (1,345,978,979 parameters)."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    pixel: PixelConfig = field(default_factory=PixelConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)

    def __post_init__(self) -> None:
        last = self.pixel.decoder.widths[-1]
        if last % self.code_channels:
            raise ValueError(
                f"pixel.decoder: {last} channels at the last level, expected a multiple of the {self.code_channels} "
                "channels of both codes"
            )

    @property
    def code_channels(self) -> int:
        """Channels of the merged features that the decoders read, semantic first."""
        return self.semantic.code_width + self.pixel.code_width

    @staticmethod
    def published() -> "DualViTokConfig":
        """The released model; noise off, as in its any-resolution configuration."""
        return DualViTokConfig()

    def to_json(self) -> str:
        return json_config.to_json(self)

    @staticmethod
    def from_json(text: str, *, where: str = "config.json") -> "DualViTokConfig":
        """Raises: ConfigError with the place of an unknown, missing or mistyped value."""
        return json_config.from_json(DualViTokConfig, text, where=where)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the tokenizer's losses. Defaults are the released training configuration.

    The paper says L1 for the pixel term, the released configuration L2.
    """

    pixel: Literal["l2", "l1"] = "l2"
    pixel_weight: float = 1.0
    perceptual: Literal["none", "lpips", "gradients"] = "lpips"  # "gradients" is ours: cheap, needs no weights
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.5
    adversarial_start_step: int = 20_000  # the first step, counted from 1, on which both adversarial losses act
    codebook_weight: float = 1.0
    semantic_weight: float = 1.0

    @staticmethod
    def published() -> "LossConfig":
        return LossConfig()


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """PatchGAN of the adversarial loss; the defaults are published (2,765,633 parameters)."""

    channels: int = 64
    layers: int = 3


@dataclass(frozen=True, kw_only=True)
class ImageTextConfig:
    """Contrastive image-text model for pre-training a vision tower where no published one is available."""

    vision: VisionConfig
    vocabulary_size: int  # of the text tokenizer
    padding_id: int
    max_tokens: int = 64  # longer texts are cut
    text_width: int = 128
    text_depth: int = 2
    text_heads: int = 4
    embedding_width: int = 128  # of the space shared by images and texts


def _check_heads(section: str, width: int, num_heads: int) -> None:
    if width % num_heads or (width // num_heads) % 4:
        raise ValueError(
            f"{section}.width: {width} over {num_heads} heads; rotary positions need heads of a multiple of 4"
        )
