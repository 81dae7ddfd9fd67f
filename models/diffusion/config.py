"""Every size and training choice of the diffusion decoder as frozen values.

Source: ILLUME+ released embedder and pipeline for the SDXL sizes, arXiv 2504.01934 section 3.3 for the training.
"""

from dataclasses import dataclass, field
from typing import Literal

from models import json_config

# (height, width) of the output; the position in this list conditions the model. Published as (width, height).
PUBLISHED_OUTPUTS: tuple[tuple[int, int], ...] = (
    (1024, 1024),
    (1024, 768),
    (768, 1024),
    (2048, 512),
    (512, 2048),
    (1920, 640),
    (640, 1920),
    (1536, 768),
    (768, 1536),
    (1152, 768),
    (768, 1152),
    (512, 512),
)

# Sizes of SDXL's conditions. There is no text here, so its inputs are zeros of these sizes. Source: SDXL.
TEXT_TOKENS = 77
TEXT_WIDTH = 2048
POOLED_WIDTH = 1280
NUM_TIME_IDS = 6  # the last is the resolution's index in the list, the others are 0
TIME_ID_WIDTH = 256


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The network. "sdxl" has cross-attention to (zero) text; "plain" has none and learns a vector per resolution."""

    kind: Literal["sdxl", "plain"]
    widths: tuple[int, ...]  # channels per level, from full resolution
    residual_blocks: int
    transformer_layers: tuple[int, ...]  # per level, 0 = no attention; "plain": any positive number adds one layer
    head_width: int = 64
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.transformer_layers) or not self.widths:
            raise ValueError(
                f"unet: {len(self.widths)} widths and {len(self.transformer_layers)} transformer_layers; "
                "expected one of each per level"
            )
        bad = [width for width in self.widths if width % self.norm_groups]
        if bad:
            raise ValueError(f"unet.widths: {bad}, expected multiples of norm_groups ({self.norm_groups})")

    @staticmethod
    def sdxl() -> "UNetConfig":
        return UNetConfig(kind="sdxl", widths=(320, 640, 1280), residual_blocks=2, transformer_layers=(0, 2, 10))


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """How images turn into noise, what the network predicts, and which solver removes the noise."""

    solver: Literal["euler", "ddim"] = "euler"
    # "sample" predicts the clean image: right for cells with more values than the network has channels
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    betas: Literal["scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False  # the last step is pure noise

    def __post_init__(self) -> None:
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError(
                "schedule.zero_terminal_snr: from pure noise, epsilon says nothing about the image; "
                "use the prediction v_prediction or sample"
            )


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """Noise on the code features while training, so that a language model's imperfect codes still give good images."""

    noisy_samples: float = 0.5  # share of images in which tokens are replaced by others from the batch
    noisy_tokens: float = 0.1  # share of tokens replaced in those
    drop_semantic: float = 0.1  # share of images without semantic features
    drop_pixel: float = 0.5  # share of images without pixel features; with both gone, the unconditional case

    def __post_init__(self) -> None:
        shares = (self.noisy_samples, self.noisy_tokens, self.drop_semantic, self.drop_pixel)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"perturbation: {self}, expected shares from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The whole decoder.

    Space: "latent" works on the latents of an SDXL-like autoencoder (1/8 of the size, 4 channels); "pixel" on the image
    itself, folded into cells of `cell_px` pixels, which needs no autoencoder and suits tiny models.
    """

    unet: UNetConfig
    space: Literal["latent", "pixel"]
    outputs: tuple[tuple[int, int], ...]  # (height, width) in pixels of every image that can be generated
    semantic_channels: int = 32
    pixel_channels: int = 32
    code_px: int = 16  # image pixels per side of one pixel code, before the enlargement
    enlarge: int = 2  # output side / side of the tokenized image
    cell_px: int = 8
    feature_scale: float = 1.0  # multiplies the code features; published 1
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    perturbation: Perturbation = field(default_factory=Perturbation)
    min_snr: float | None = None  # weighting by min(SNR, this); None: every step counts the same

    def __post_init__(self) -> None:
        if self.space == "latent" and self.cell_px != 8:
            raise ValueError(f"cell_px: {self.cell_px}, but the latents of the autoencoder have cells of 8 pixels")
        if (self.code_px * self.enlarge) % self.cell_px:
            raise ValueError(
                f"cell_px: {self.cell_px} does not divide {self.code_px * self.enlarge}, the output pixels of one code"
            )
        step = self.cell_px * 2 ** (len(self.unet.widths) - 1)
        bad = [size for size in self.outputs if size[0] % step or size[1] % step]
        if bad or not self.outputs:
            raise ValueError(f"outputs: {bad or 'none'}; expected at least one, sides multiples of {step} pixels")

    @property
    def sample_channels(self) -> int:
        """Channels of what is denoised."""
        return 4 if self.space == "latent" else 3 * self.cell_px**2

    @property
    def code_channels(self) -> int:
        return self.semantic_channels + self.pixel_channels

    @staticmethod
    def published() -> "DecoderConfig":
        """SDXL with 68 input channels, 2x the tokenizer's resolution; training as in the paper, min-SNR off."""
        return DecoderConfig(unet=UNetConfig.sdxl(), space="latent", outputs=PUBLISHED_OUTPUTS)

    def to_json(self) -> str:
        return json_config.to_json(self)

    @staticmethod
    def from_json(text: str, *, where: str = "config.json") -> "DecoderConfig":
        """Raises: ConfigError with the place of an unknown, missing or mistyped value."""
        return json_config.from_json(DecoderConfig, text, where=where)
