"""The golden tokenizer, and a tokenizer small enough to train in a test."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.check.__main__ import read
from models.check.formulas import formula_images
from models.check.report import Vectors
from models.check.tokenizer import build_tokenizer
from models.dualvitok.config import (
    BlocksConfig,
    ConvolutionsConfig,
    DualViTokConfig,
    PixelConfig,
    SemanticConfig,
    VisionConfig,
)
from models.dualvitok.model import DualViTok


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Vectors that the published code computed, and the model they belong to."""

    vectors: Vectors

    def model(self) -> DualViTok:
        """A fresh model with the golden weights, in evaluation mode."""
        return build_tokenizer(self.vectors)

    def images(self, case: str) -> Tensor:
        found = self.vectors.facts["cases"][case]
        return formula_images(found["height"], found["width"], found["image_k"])


@pytest.fixture(scope="session")
def golden(shared: Path) -> Golden:
    return Golden(vectors=read(shared / "golden" / "golden_public.json"))


@pytest.fixture
def tiny_config() -> DualViTokConfig:
    blocks = BlocksConfig(width=32, num_heads=4, depth=1)
    return DualViTokConfig(
        vision=VisionConfig(depth=1, width=32, num_heads=4, output_width=48),
        semantic=SemanticConfig(encoder=blocks, decoder=blocks, code_width=8, codebook_size=32),
        pixel=PixelConfig(
            encoder=ConvolutionsConfig(
                channels=16, channel_multipliers=(1, 1, 2, 2), residual_blocks=1, attention_levels=(3,)
            ),
            decoder=ConvolutionsConfig(
                channels=16, channel_multipliers=(1, 1, 2, 2), residual_blocks=1, attention_levels=(3,)
            ),
            norm_groups=8,
            code_width=8,
            codebook_size=64,
        ),
    )


@pytest.fixture
def tiny_model(tiny_config: DualViTokConfig) -> DualViTok:
    torch.manual_seed(0)
    return DualViTok(tiny_config).eval()
