"""A tiny unified model whose every part is exercised in milliseconds."""

import pytest
import torch

from models.dualvitok.config import ConvolutionsConfig, PixelConfig, VisionConfig
from models.mllm.config import MllmConfig, TextModelConfig, TokenTableConfig, VisionBranchConfig
from models.mllm.model import UnifiedMllm
from models.mllm.vision import VisionBranch

TEXT_IDS = 50
CONVOLUTIONS = ConvolutionsConfig(channels=8, channel_multipliers=(1, 1, 2), residual_blocks=1, attention_levels=())


def make_config(*, tie_embeddings: bool = False, chunk_bytes: int = 4000) -> MllmConfig:
    return MllmConfig(
        text=TextModelConfig(
            hidden_size=32,
            intermediate_size=64,
            num_layers=2,
            num_heads=4,
            num_key_value_heads=2,
            tie_embeddings=tie_embeddings,
            initializer_range=0.3,
        ),
        tokens=TokenTableConfig(
            first_vision_id=TEXT_IDS, semantic_codes=16, pixel_codes=32, resolutions=(16, 32, 48), rows=115
        ),
        vision=VisionBranchConfig(
            tower=VisionConfig(depth=2, width=16, num_heads=2, output_width=12),
            pixel=PixelConfig(
                encoder=CONVOLUTIONS,
                decoder=CONVOLUTIONS,
                norm_groups=4,
                code_width=4,
                codebook_size=32,
            ),
        ),
        loss_chunk_bytes=chunk_bytes,
    )


@pytest.fixture(params=[False, True], ids=["separate", "tied"])
def model(request: pytest.FixtureRequest) -> UnifiedMllm:
    """With a vision branch; random weights from a fixed seed."""
    torch.manual_seed(0)
    config = make_config(tie_embeddings=request.param)
    return UnifiedMllm(config, VisionBranch(config.vision))
