"""Bytes of weights, gradients and optimizer on one accelerator, by strategy.

Sources: ZeRO (arXiv 1910.02054) for mixed precision with an fp32 Adam: 2 bytes of weights, 2 of gradients and 12 of
master weights and moments for each parameter; DeepSpeed's own estimators (deepspeed.runtime.zero), which count 18.
"""

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["ddp", "fsdp2", "zero1", "zero2", "zero3"]
ZERO: tuple[Strategy, ...] = ("zero1", "zero2", "zero3")  # by stage, from 1

_HALF, _FULL = 2, 4  # bytes of a value in bf16 and fp32
_MASTER_AND_MOMENTS = 12  # fp32 weights and both moments of Adam
_LIVE_UNIT = {"zero3": 2 * _HALF, "fsdp2": 2 * _HALF + _HALF}  # of a gathered unit: weights and gradients; 2 prefetched


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """On one accelerator."""

    weights: float
    gradients: float
    optimizer: float
    live_units: float  # gathered at once, or cast for computing

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.live_units


def mixed_precision_states(
    strategy: Strategy, trained: float, *, shards: int, largest_unit: float, frozen: float = 0.0
) -> StateBytes:
    """States of bf16 training with an fp32 Adam, of which `shards` accelerators hold a part each.

    Args:
        trained: parameters with gradients.
        frozen: parameters without, which are kept in bf16.
        largest_unit: parameters of the largest unit that is gathered at once.
    """
    if strategy == "ddp":
        split = (1, 1, 1)
    elif strategy == "zero1":
        split = (1, 1, shards)
    elif strategy == "zero2":
        split = (1, shards, shards)
    else:
        split = (shards, shards, shards)
    kept = frozen / (shards if split[0] > 1 or strategy in _LIVE_UNIT else 1)
    return StateBytes(
        weights=_HALF * trained / split[0] + _HALF * kept,
        gradients=_HALF * trained / split[1],
        optimizer=_MASTER_AND_MOMENTS * trained / split[2],
        live_units=_LIVE_UNIT.get(strategy, 0) * largest_unit,
    )


def full_precision_states(
    trained: float, *, frozen: float, autocast: bool, halved: float = 0.0, moment_bytes: int = _FULL
) -> StateBytes:
    """DDP with fp32 weights: what the trainer does. Autocast keeps bf16 copies until the backward pass ends.

    `halved`: frozen parameters beside the others that are kept in bf16, so that nothing has to copy them.
    """
    return StateBytes(
        weights=_FULL * (trained + frozen) + _HALF * halved,
        gradients=_FULL * trained,
        optimizer=2 * moment_bytes * trained,
        live_units=_HALF * (trained + frozen) if autocast else 0.0,
    )


def zero_full_precision_states(
    strategy: Strategy, trained: float, *, frozen: float, shards: int, units: float, largest_unit: float, autocast: bool
) -> StateBytes:
    """ZeRO with fp32 weights: what the trainer does. Parameters of `units` are divided in stage 3, trained or not.

    Stages 1 and 2 keep an fp32 copy of what each accelerator updates. What is in no unit stays whole.
    """
    if strategy == "zero3":
        whole = trained + frozen - units
        return StateBytes(
            weights=_FULL * (whole + units / shards),
            gradients=_FULL * trained / shards,
            optimizer=2 * _FULL * trained / shards,
            live_units=_FULL * largest_unit + (_HALF * (whole + largest_unit) if autocast else 0.0),
        )
    return StateBytes(
        weights=_FULL * (trained + frozen),
        gradients=_FULL * trained / (shards if strategy == "zero2" else 1),
        optimizer=3 * _FULL * trained / shards,
        live_units=_HALF * (trained + frozen) if autocast else 0.0,
    )


@dataclass(frozen=True, kw_only=True)
class DeepSpeedBytes:
    """What DeepSpeed's estimators print: on one accelerator, and on the host of one node."""

    gpu: float
    cpu: float


_DEEPSPEED_STATES = 18  # with fp32 gradients beside the bf16 ones
_HOST_STATES = 16  # that an offloaded optimizer holds


def deepspeed_zero2(
    parameters: int, *, nodes: int, gpus_per_node: int, offload: bool, buffer_factor: float = 1.5
) -> DeepSpeedBytes:
    """`estimate_zero2_model_states_mem_needs`."""
    gpus = nodes * gpus_per_node
    if offload:
        host = max(_FULL * gpus, _HOST_STATES) * parameters * buffer_factor
        return DeepSpeedBytes(gpu=_HALF * parameters, cpu=host)
    on_device = _HALF * parameters + _DEEPSPEED_STATES * parameters / gpus
    return DeepSpeedBytes(gpu=on_device, cpu=_FULL * parameters * gpus_per_node * buffer_factor)


def deepspeed_zero3(
    parameters: int,
    *,
    largest_layer: int,
    nodes: int,
    gpus_per_node: int,
    offload: bool,
    offload_weights: bool = False,
    buffer_factor: float = 1.5,
) -> DeepSpeedBytes:
    """`estimate_zero3_model_states_mem_needs` with `zero_init`."""
    gpus, live = nodes * gpus_per_node, 2 * _HALF * largest_layer
    if not offload:
        host = _FULL * largest_layer * gpus_per_node * buffer_factor
        return DeepSpeedBytes(gpu=live + _DEEPSPEED_STATES * parameters / gpus, cpu=host)
    if not offload_weights:
        host = _HOST_STATES * parameters / nodes * buffer_factor
        return DeepSpeedBytes(gpu=live + _HALF * parameters / gpus, cpu=host)
    return DeepSpeedBytes(gpu=live, cpu=_DEEPSPEED_STATES * parameters / nodes * buffer_factor)
