"""Optimizers and learning-rate schedules by name, and moving averages."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch


def learning_rate_factor(
    step: int, *, steps: int, schedule: Literal["constant", "cosine"], warmup_share: float, final_share: float
) -> float:
    """Factor in [0, 1] of the peak learning rate at a 0-based step: linear warm-up, then constant or half a cosine."""
    warmup = int(steps * warmup_share)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_optimizer(
    groups: Sequence[dict[str, Any]],
    *,
    name: Literal["adam", "adamw"],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Adam or AdamW over parameter groups; each group's "lr" is kept as its peak under "peak_lr".

    On an accelerator one kernel updates all tensors, without temporary copies of them.
    """
    for group in groups:
        group["peak_lr"] = group["lr"]
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    on_accelerator = any(parameter.device.type == "cuda" for group in groups for parameter in group["params"])
    fused = True if on_accelerator else None
    return kind(list(groups), lr=0.0, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


@torch.no_grad()
def average_into(average: torch.Tensor, value: torch.Tensor, decay: float, count: int) -> None:
    """Move an exponential moving average towards a value, in place; `count` updates came before. Integers are copied.

    The decay of the n-th update is min(decay, (1 + n) / (10 + n)), n from 0, so that the initial weights of short runs
    lose their influence; published: 0.9999 over the tokenizer's state dict, switched off.
    """
    if average.is_floating_point():
        average.lerp_(value, 1 - min(decay, (1 + count) / (10 + count)))
    else:
        average.copy_(value)
