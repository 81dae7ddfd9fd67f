"""Weights that a program left on the meta device: this worker's part of them gets memory, and is read from files."""

from collections.abc import Collection, Iterable

import torch
from torch import nn

from stages.training.program import InitialWeights, TrainingProgram
from stages.training.strategies.blocks import fill
from stages.training.strategies.weights import live_weights

HALVED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # autocast rounds their weights to bf16 wherever they are used


def names_on_meta(program: TrainingProgram) -> set[str]:
    """The weights that a program left to be read. To be asked before its modules are spread."""
    return {name for name, tensor in live_weights(program.weights).items() if tensor.is_meta}


def materialize(roots: Iterable[nn.Module], device: torch.device) -> None:
    """Give modules of the meta device memory, whose content is undefined. Buffers that have values keep them.

    A sharded module is passed as its root, and only gets memory for its shards. Modules that have values keep them.
    """
    for root in roots:
        if not any(parameter.is_meta for parameter in root.parameters()):
            continue
        buffers = [
            (owner, name, buffer)
            for owner in root.modules()
            for name, buffer in owner.named_buffers(recurse=False)
            if not buffer.is_meta
        ]
        root.to_empty(device=device)
        for owner, name, buffer in buffers:
            setattr(owner, name, buffer.to(device))


def fill_weights(program: TrainingProgram, initial: InitialWeights, names: Collection[str]) -> None:
    """Read this worker's block of each of the named weights."""
    for name, tensor in live_weights(program.weights).items():
        if name in names:
            fill(tensor, initial, name)


def halve_frozen(program: TrainingProgram, frozen: Collection[str]) -> None:
    """Keep frozen matrices in bf16, for a computation in bf16, which rounds them anyway: results are equal to the bit.

    Norms, biases and token tables, which are used in fp32, stay in it. `frozen`: names that no checkpoint holds.
    """
    for module_name, module in program.weights.items():
        for path, child in module.named_modules():
            name = f"weights/{module_name}/{path}.weight"
            if isinstance(child, HALVED) and name in frozen and child.weight.dtype == torch.float32:
                child.weight.data = child.weight.data.to(torch.bfloat16)
