"""Optimizers and learning-rate schedules by name, and moving averages."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

MUON_MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


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
    name: Literal["adam", "adamw", "muon"],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    states: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:
    """An optimizer over parameter groups; each group's "lr" is kept as its peak under "peak_lr".

    `name` "muon": Muon for the groups whose "matrices" is true, AdamW for the others.

    On an accelerator one kernel updates all tensors, without temporary copies of them. `states`: type of the moments.
    """
    for group in groups:
        group["peak_lr"] = group["lr"]
    if name == "muon":
        return Muon(groups, betas=betas, eps=eps, weight_decay=weight_decay, is_decoupled=True, states=states)
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
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """`closure`: computes loss and gradients again, as for the optimizers of torch; its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group)
        return loss

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


class Muon(LowPrecisionAdam):
    """Steps of equal size in all directions of a matrix, for the groups whose "matrices" is true; AdamW for the others.

    The momentum of a matrix is replaced by the nearest one whose singular values are about 1 (Jordan et al. 2024, as in
    `torch.optim.Muon`, in fp32), times 0.2 and the square root of the longer side, which makes it as large as a step of
    Adam (arXiv 2502.16982), so that both share learning rates. Needs whole matrices.
    """

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: Mapping[str, Any]) -> None:
        if not group["matrices"]:
            super()._update(parameter, gradient, group)
            return
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
        state["step"] += 1
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        momentum = state["exp_avg"].lerp_(gradient, 1 - MUON_MOMENTUM)
        direction = orthogonalized(gradient.lerp(momentum, MUON_MOMENTUM))
        parameter.add_(direction, alpha=-group["lr"] * 0.2 * math.sqrt(max(parameter.shape)))


def orthogonalized(matrix_MN: torch.Tensor) -> torch.Tensor:
    """A matrix with the singular vectors of another and singular values between about 0.7 and 1.2.

    Five steps of a Newton-Schulz iteration with the coefficients of Jordan et al. 2024; directions whose share of the
    norm is below about 1e-3 stay smaller.
    """
    first, second, third = NEWTON_SCHULZ
    is_tall = matrix_MN.shape[0] > matrix_MN.shape[1]
    found = matrix_MN.T if is_tall else matrix_MN
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(5):
        square = found @ found.T
        found = first * found + (second * square + third * square @ square) @ found
    return found.T if is_tall else found


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
