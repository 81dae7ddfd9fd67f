"""Tokens per second, padding, and the share of the device's peak that a training uses (MFU)."""

from collections.abc import Mapping

import torch

from orchestrator.devices import find_device
from orchestrator.errors import RecipeError

TOKENS_PER_S, PADDING_SHARE, MFU = "tokens_per_s", "padding_share", "mfu"


def peak_flops(device: torch.device, stated_tflops: float) -> float:
    """Dense bf16 FLOPs per second of a worker's device: as stated, else of the device table; 0: nobody knows."""
    if stated_tflops:
        return stated_tflops * 1e12
    return peak_of_name(device_name(device)) if device.type == "cuda" else 0.0


def device_name(device: torch.device) -> str:
    """As its driver calls it, such as "NVIDIA H100 80GB HBM3"; else its type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_of_name(name: str) -> float:
    """By the name that a driver gives a device, such as "NVIDIA H100 80GB HBM3"; 0: not in the table."""
    try:
        return find_device(name.replace(" ", "-"))[1].bf16_tflops * 1e12
    except RecipeError:
        return 0.0


def throughput_metrics(
    *, tokens: float, padding: float, step_s: float, step_flops: float, peak: float, workers: int
) -> Mapping[str, float]:
    """Of one step. `tokens`, `padding`: of all workers, 0 if not counted; `peak`: of one worker's device."""
    metrics: dict[str, float] = {}
    if tokens and step_s > 0:
        metrics |= {TOKENS_PER_S: tokens / step_s, PADDING_SHARE: padding / tokens}
    if step_flops and peak and step_s > 0:
        metrics[MFU] = step_flops / (step_s * peak * workers)
    return metrics
