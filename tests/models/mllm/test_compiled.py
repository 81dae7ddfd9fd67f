"""Compiled layers compute what they computed before, and are compiled once for all of them."""

import copy
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AttentionInterface

from models.mllm.attention import PACKED_ATTENTION, packed_attention
from models.mllm.compiled import compile_layers
from models.mllm.model import UnifiedMllm
from models.recompute import recompute
from tests.models.mllm.conftest import make_config
from tests.stages.training.strategies.tiny_mllm import random_row

LAYERS = 10  # more than dynamo compiles one piece of code for


@pytest.fixture
def model() -> UnifiedMllm:
    torch.manual_seed(0)
    config = make_config(tie_embeddings=True)
    return UnifiedMllm(replace(config, text=replace(config.text, num_layers=LAYERS))).train()


def gradients(model: UnifiedMllm, seeds: range) -> list[torch.Tensor]:
    """Losses and gradients over rows of different documents."""
    found = []
    for seed in seeds:
        row = random_row([], torch.Generator().manual_seed(seed), tokens=48 + 24 * seed)
        model.zero_grad()
        loss = model(row).loss_sum
        loss.backward()
        found += [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    return found


@pytest.mark.parametrize("is_recomputed", [False, True])
def test_layers_compute_the_same_and_share_what_is_compiled(model: UnifiedMllm, is_recomputed: bool) -> None:
    expected = gradients(copy.deepcopy(model), range(2))
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compile_layers(model.language.layers, backend=counter)
    try:
        if is_recomputed:
            recompute(model.language.layers)
        found = gradients(model, range(2))
        assert 2 <= counter.frame_count <= LAYERS  # before and after attention, again for rows of another length
        assert all("_orig_mod" not in name for name, _ in model.named_parameters())
        torch.testing.assert_close(found, expected)
    finally:
        AttentionInterface.register(PACKED_ATTENTION, packed_attention)
        torch._dynamo.reset()
