"""The golden tokenizer, and a tokenizer small enough to train in a test."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from models.dualvitok.config import (
    BlocksConfig,
    ConvolutionsConfig,
    DualViTokConfig,
    PixelConfig,
    SemanticConfig,
    VisionConfig,
)
from models.dualvitok.model import DualViTok
from models.dualvitok.published_config import config_from_published
from models.strict_weights import load_strictly


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Vectors that the published code computed, and the model they belong to."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]
    config: DualViTokConfig

    def model(self) -> DualViTok:
        """A fresh model with the golden weights, in evaluation mode."""
        model = DualViTok(self.config).eval()
        weights = {name[3:]: value.float() for name, value in self.tensors.items() if name.startswith("sd/")}
        load_strictly(model, weights, where="golden_public.safetensors")
        return model

    def images(self, case: str) -> Tensor:
        found = self.facts["cases"][case]
        return _formula_images(found["height"], found["width"], found["image_k"])


def _formula_images(height: int, width: int, ks: list[int]) -> Tensor:
    """The images of the vectors, from their integer formula, in [-1, 1]."""
    y, x = np.arange(height, dtype=np.int64)[:, None], np.arange(width, dtype=np.int64)[None, :]
    images = []
    for k in ks:
        channels = []
        for c in range(3):
            a, b = (7 * (k + 1) + 13 * c) % 29 + 3, (11 * (k + 2) + 5 * c) % 23 + 2
            smooth = (y * 255 * (c + 1)) // (2 * height) + (x * 255 * (3 - c)) // (2 * width)
            rings = ((y - height // 2) ** 2 + (x - width // 3) ** 2) // (16 * a)
            stripes = ((x * b + y * a) // 16) % 64
            blocks = (((y // 24) * 5 + (x // 20) * 3 + k) % 7) * 17
            channels.append((smooth + (rings % 96) + stripes + blocks) % 256)
        images.append(np.stack(channels).astype(np.uint8))
    return torch.from_numpy(np.stack(images)).float() / 127.5 - 1


@pytest.fixture(scope="session")
def formula_images() -> Callable[[int, int, list[int]], Tensor]:
    """Height, width and numbers of images to the images [B, 3, Y, X] of the vectors."""
    return _formula_images


@pytest.fixture(scope="session")
def golden(shared: Path) -> Golden:
    facts = json.loads((shared / "golden" / "golden_public.json").read_text())
    return Golden(
        facts=facts,
        tensors=safetensors.torch.load_file(shared / "golden" / "golden_public.safetensors"),
        config=config_from_published(facts["vit_config"], facts["model_config"]),
    )


@pytest.fixture(scope="session")
def golden_extra(shared: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    facts = json.loads((shared / "golden" / "golden_public_extra.json").read_text())
    return facts, safetensors.torch.load_file(shared / "golden" / "golden_public_extra.safetensors")


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
