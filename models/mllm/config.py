"""Every size of the unified language model as frozen values.

Source: shapes of the released ILLUME+ 3B and 7B; their parameter counts confirm the sizes of Qwen2.5-Instruct.
"""

from dataclasses import dataclass, field

from models import json_config
from models.dualvitok.config import PixelConfig, VisionConfig


@dataclass(frozen=True, kw_only=True)
class TextModelConfig:
    """The Qwen2 decoder without its token embeddings."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    tie_embeddings: bool  # one table for input and output
    max_positions: int = 32_768
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"text.hidden_size: {self.hidden_size} over {self.num_heads} heads; heads need an equal, even width"
            )
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"text.num_key_value_heads: {self.num_key_value_heads} does not divide num_heads ({self.num_heads})"
            )


@dataclass(frozen=True, kw_only=True)
class TokenTableConfig:
    """Rows of the token tables: text below `first_vision_id`, then image tokens, then unused padding up to `rows`."""

    first_vision_id: int
    semantic_codes: int
    pixel_codes: int
    resolutions: tuple[int, ...]
    rows: int


@dataclass(frozen=True, kw_only=True)
class VisionBranchConfig:
    """The parts of the tokenizer that read images: its vision tower and its pixel encoder."""

    tower: VisionConfig = field(default_factory=VisionConfig)
    pixel: PixelConfig = field(default_factory=PixelConfig)


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of a trained token by its kind; markers and resolution tags count as text."""

    text: float = 1.0
    semantic: float = 1.0
    pixel: float = 1.0

    def __post_init__(self) -> None:
        if min(self.text, self.semantic, self.pixel) < 0 or max(self.text, self.semantic, self.pixel) <= 0:
            raise ValueError(f"loss_weights: {self}, expected none below 0 and at least one above")


@dataclass(frozen=True, kw_only=True)
class MllmConfig:
    """The whole model. Input widths of the projector follow from the vision branch."""

    text: TextModelConfig
    tokens: TokenTableConfig
    vision: VisionBranchConfig = field(default_factory=VisionBranchConfig)
    loss_weights: LossWeights = field(default_factory=LossWeights)
    loss_chunk_bytes: int = 256 * 2**20  # of fp32 scores that exist at once in the loss
    checkpoint_activations: bool = False  # recompute each decoder layer in the backward pass

    @staticmethod
    def published_3b() -> "MllmConfig":
        """On Qwen2.5-3B-Instruct: 283,047 rows, tied tables, 4,073,174,752 parameters."""
        text = TextModelConfig(
            hidden_size=2048,
            intermediate_size=11_008,
            num_layers=36,
            num_heads=16,
            num_key_value_heads=2,
            tie_embeddings=True,
        )
        return MllmConfig(text=text, tokens=_published_tokens(text_rows=151_936), checkpoint_activations=True)

    @staticmethod
    def published_7b() -> "MllmConfig":
        """On Qwen2.5-7B-Instruct: 283,175 rows, separate tables, 9,297,002,720 parameters."""
        text = TextModelConfig(
            hidden_size=3584,
            intermediate_size=18_944,
            num_layers=28,
            num_heads=28,
            num_key_value_heads=4,
            tie_embeddings=False,
        )
        return MllmConfig(text=text, tokens=_published_tokens(text_rows=152_064), checkpoint_activations=True)

    def to_json(self) -> str:
        return json_config.to_json(self)

    @staticmethod
    def from_json(text: str, *, where: str = "config.json") -> "MllmConfig":
        """Raises: ConfigError with the place of an unknown, missing or mistyped value."""
        return json_config.from_json(MllmConfig, text, where=where)


def _published_tokens(*, text_rows: int) -> TokenTableConfig:
    """The base model's table grown by the 131,111 image tokens, although its own last rows are unused."""
    return TokenTableConfig(
        first_vision_id=151_665,
        semantic_codes=32_768,
        pixel_codes=98_304,
        resolutions=tuple(range(64, 1024 + 1, 64)),
        rows=text_rows + 131_111,
    )


@dataclass(frozen=True, kw_only=True)
class LevelSampling:
    """How one kind of token is sampled. Applied once, in this order: temperature, top-k, top-p."""

    temperature: float = 1.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0  # the token that crosses this share is kept

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"sampling: {self}; expected temperature > 0, top_k >= 0 and 0 < top_p <= 1")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How answers are sampled. `guidance` acts only inside images; 1 switches it off."""

    text: LevelSampling
    semantic: LevelSampling
    pixel: LevelSampling
    guidance: float = 1.0
    greedy: bool = False  # always take the best allowed token
    seed: int = 0
    max_new_tokens: int = 2048
    max_images: int = 1  # per answer; 0 gives text only
    force_image: bool = False  # the answer begins with an image
    stop_after_image: bool = False  # the answer ends with its first image

    def __post_init__(self) -> None:
        if self.guidance < 0 or self.max_new_tokens < 1 or self.max_images < 0:
            raise ValueError(
                f"sampling: guidance {self.guidance}, max_new_tokens {self.max_new_tokens}, max_images "
                f"{self.max_images}; expected at least 0, 1 and 0"
            )
        if self.force_image and self.max_images == 0:
            raise ValueError("sampling: force_image with max_images 0; allow at least one image")

    @staticmethod
    def published_generation() -> "SamplingConfig":
        """Text to image: temperature 1, top-k 2048 (pixel codes three times that), guidance 2."""
        return _image_sampling(temperature=1.0, top_k=2048, top_p=1.0, guidance=2.0)

    @staticmethod
    def published_editing() -> "SamplingConfig":
        """Editing: temperature 0.7, top-k 512 (pixel codes three times that), top-p 0.8, guidance 1.25."""
        return _image_sampling(temperature=0.7, top_k=512, top_p=0.8, guidance=1.25)

    @staticmethod
    def published_understanding() -> "SamplingConfig":
        """Greedy text, at most 1024 tokens."""
        any_level = LevelSampling()
        return SamplingConfig(
            text=any_level, semantic=any_level, pixel=any_level, greedy=True, max_new_tokens=1024, max_images=0
        )


def _image_sampling(*, temperature: float, top_k: int, top_p: float, guidance: float) -> SamplingConfig:
    text = LevelSampling(temperature=temperature, top_k=top_k, top_p=top_p)
    return SamplingConfig(
        text=text,
        semantic=text,
        pixel=LevelSampling(temperature=temperature, top_k=3 * top_k, top_p=top_p),
        guidance=guidance,
        force_image=True,
        stop_after_image=True,
    )
