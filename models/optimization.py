"""Optimizers and learning-rate schedules by name, and moving averages."""

import math
from collections.abc import Mapping, Sequence
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
    states: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:
    """Adam or AdamW over parameter groups; each group's "lr" is kept as its peak under "peak_lr".

    On an accelerator one kernel updates all tensors, without temporary copies of them. `states`: type of the moments.
    """
    for group in groups:
        group["peak_lr"] = group["lr"]
    if states != torch.float32:
        return LowPrecisionAdam(
            groups, betas=betas, eps=eps, weight_decay=weight_decay, is_decoupled=name == "adamw", states=states
        )
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    on_accelerator = any(parameter.device.type == "cuda" for group in groups for parameter in group["params"])
    fused = True if on_accelerator else None
    return kind(list(groups), lr=0.0, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)


class LowPrecisionAdam(torch.optim.Optimizer):
    """Adam or AdamW (`is_decoupled`) that keeps its moments in another type than fp32, and computes in fp32.

    One parameter after the other, so that only one has temporary copies. States have the names of torch's own Adam.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        is_decoupled: bool,
        states: torch.dtype,
    ) -> None:
        self._is_decoupled, self._states = is_decoupled, states
        super().__init__(list(groups), {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch also takes a closure, unused here
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group)

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: Mapping[str, Any]) -> None:
        rate, decay, (first, second) = group["lr"], group["weight_decay"], group["betas"]
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.zeros_like(parameter, dtype=self._states)
        state["step"] += 1
        steps = float(state["step"])
        if self._is_decoupled:
            parameter.mul_(1 - rate * decay)
        elif decay:
            gradient = gradient.add(parameter, alpha=decay)
        mean = state["exp_avg"].float().lerp_(gradient, 1 - first)
        square = state["exp_avg_sq"].float().mul_(second).addcmul_(gradient, gradient, value=1 - second)
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)
        scale = square.sqrt().div_(math.sqrt(1 - second**steps)).add_(group["eps"])
        parameter.addcdiv_(mean, scale, value=-rate / (1 - first**steps))


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
