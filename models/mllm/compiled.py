"""Layers compiled one by one by `torch.compile`: fewer and larger kernels, the same result within rounding."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from models.mllm.attention import PACKED_ATTENTION, packed_attention


def compile_layers(layers: Iterable[nn.Module], *, backend: str | Callable[..., Any]) -> None:
    """Compile what each layer computes before and after its attention, whose documents differ from row to row.

    Layers of one kind share what is compiled. Hooks and names of parameters stay, so the layers can be sharded and
    recomputed afterwards; what recomputes is applied after this.
    """
    AttentionInterface.register(PACKED_ATTENTION, torch.compiler.disable(packed_attention))
    for layer in layers:
        layer.forward = torch.compile(layer.forward, backend=backend)
