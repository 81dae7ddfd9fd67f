"""Layers whose activations are computed again in the backward pass: less memory, the same result."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# Kept by selective recomputation: results that cost much to compute and little to keep. Norms, activation functions,
# rotations and sums, which take most of the memory, are computed again.
_KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
}


def recompute(modules: Iterable[nn.Module], *, selective: bool = False) -> None:
    """Keep only the inputs of each module; `selective`: also its matrix products, convolutions and attention.

    Names of parameters stay as they are. Modules must draw no random numbers.
    """
    contexts = {"context_fn": functools.partial(create_selective_checkpoint_contexts, _policy)} if selective else {}
    for module in modules:
        module.forward = _recomputed(module, module.forward, contexts)


def _recomputed(module: nn.Module, forward: Callable[..., Any], contexts: dict[str, Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def recomputed(*arguments: Any, **named: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **contexts, **named)

    return recomputed


def _policy(context: object, function: object, *arguments: object, **named: object) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if function in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
