"""Every size of the unified language model as frozen values.

Source: shapes of the released ILLUME+ 3B and 7B; their sums of parameters confirm the sizes of Qwen2.5-Instruct.
"""

from dataclasses import dataclass, field

from models import json_config
from models.dualvitok.config import PixelConfig, VisionConfig


@dataclass(frozen=True, kw_only=True)
class TextModelConfig:
    """The Qwen2 decoder without its tables of token vectors."""

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
    """Weight of a trained token by what it is; markers and resolution tags count as text."""

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
    loss_chunk_bytes: int = 256 * 2**20  # of fp32 scores that the loss holds at once
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
