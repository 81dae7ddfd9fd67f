"""The weights of a program that a checkpoint holds, by name, and those that it knows by their digest only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from stages.training.agreement import WorkerRank, gather_texts
from stages.training.checkpoints.reader import weight_name
from stages.training.checkpoints.slices import share_out, tensor_digest
from stages.training.program import InitialWeights, TrainingProgram, initial_of, rebuilds_frozen


@dataclass(frozen=True, kw_only=True)
class FrozenWeights:
    """Tensors that do not train, which the program builds again from its inputs."""

    digests: Mapping[str, str]  # by name


def frozen_weights(program: TrainingProgram, worker: WorkerRank) -> FrozenWeights:
    """Called by all workers before the program is spread over them; each hashes its share."""
    if not rebuilds_frozen(program):
        return FrozenWeights(digests={})
    trained = {id(parameter) for each in program.passes for group in each.groups for parameter in group["params"]}
    found = {
        weight_name(name, key): parameter
        for name, module in program.weights.items()
        for key, parameter in module.named_parameters(remove_duplicate=False)
        if id(parameter) not in trained
    }
    owners = share_out({name: tensor.numel() for name, tensor in found.items()}, worker.world_size)
    initial = initial_of(program)
    own = {
        name: tensor_digest(_read(initial, name, tensor) if initial is not None and tensor.is_meta else tensor)
        for name, tensor in found.items()
        if owners[name] == worker.rank
    }
    digests: dict[str, str] = {}
    for text in gather_texts(json.dumps(own), worker):
        digests.update(json.loads(text))
    return FrozenWeights(digests=digests)


def _read(initial: InitialWeights, name: str, tensor: torch.Tensor) -> torch.Tensor:
    return initial.read(name, (0,) * tensor.ndim, tensor.shape).to(tensor.dtype)


def live_weights(modules: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Parameters and buffers of modules, by name; they share their memory with the modules."""
    return {
        weight_name(name, key): value for name, module in modules.items() for key, value in module.state_dict().items()
    }


def buffer_names(modules: Mapping[str, nn.Module]) -> set[str]:
    return {weight_name(name, key) for name, module in modules.items() for key, _ in module.named_buffers()}
