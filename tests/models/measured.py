"""What a real module costs, measured without weights: the oracle of the arithmetic in `cost.py`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

Build = Callable[[], nn.Module]
Call = Callable[[Any, int], object]  # (module, batch)


def measured_parameters(build: Build) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def measured_flops(build: Build, call: Call) -> float:
    """FLOPs of one forward pass over one item."""
    with torch.device("meta"):
        module = build()
        with FlopCounterMode(display=False) as counter:
            call(module, 1)
    return float(counter.get_total_flops())


def measured_saved_bytes(build: Build, call: Call) -> float:
    """What autograd keeps of one item under bfloat16 autocast: three items less two, which leaves out the weights."""
    totals = []
    with FakeTensorMode():
        module = build()
        weights = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
        for batch in (2, 3):
            kept: dict[int, Tensor] = {}

            def keep(tensor: Tensor, kept: dict[int, Tensor] = kept) -> Tensor:
                storage = tensor.untyped_storage()._cdata
                if storage not in weights:
                    kept[storage] = tensor
                return tensor

            hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
            with hooks, torch.autocast("cpu", dtype=torch.bfloat16):
                output = call(module, batch)
            totals.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
            del output
    return float(totals[1] - totals[0])
