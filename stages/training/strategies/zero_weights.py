"""The weights of a program of which each worker holds stretches, and those that all workers hold whole."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from stages.training.agreement import WorkerRank
from stages.training.checkpoints.reader import CheckpointReader, weight_name
from stages.training.checkpoints.slices import Shape, TensorSlice, share_out, whole
from stages.training.program import TrainingProgram
from stages.training.strategies.averages import average_name
from stages.training.strategies.blocks import fill
from stages.training.strategies.partitions import Partition
from stages.training.strategies.weights import live_weights
from stages.training.strategies.zero_states import ZeroStates, shape_of


class ZeroWeights:
    """After the engines were made. A moving average of each may be passed instead of the weights themselves."""

    def __init__(
        self,
        program: TrainingProgram,
        states: Mapping[str, ZeroStates],
        *,
        trained: Mapping[str, Sequence[nn.Parameter]],
        frozen: Mapping[str, str],
    ) -> None:
        """`states`, `trained`: by pass; `frozen`: names that no checkpoint holds."""
        owner = {id(each): states[item.name] for item in program.passes for each in item.module.parameters()}
        trains = {id(parameter) for parameters in trained.values() for parameter in parameters}
        parameters = {
            weight_name(name, key): parameter
            for name, module in program.weights.items()
            for key, parameter in module.named_parameters(remove_duplicate=False)
        }
        buffers = {name: value for name, value in live_weights(program.weights).items() if name not in parameters}
        self.shapes: dict[str, Shape] = {name: shape_of(each) for name, each in parameters.items()}
        self.shapes.update({name: tuple(value.shape) for name, value in buffers.items()})
        self._parts: dict[str, Partition] = {}
        self._whole: dict[str, torch.Tensor] = {}
        self._buffers = buffers.keys() - frozen.keys()
        for name, parameter in parameters.items():
            held_by = owner.get(id(parameter))
            is_divided = held_by is not None and (id(parameter) in trains or held_by.divides_frozen)
            if name in frozen:
                continue
            if not is_divided or held_by is None:
                self._whole[name] = parameter
                continue
            part = held_by.weight(parameter) if id(parameter) in trains else held_by.frozen(parameter)
            if part is not None:
                self._parts[name] = part
        self._whole.update({name: buffers[name] for name in self._buffers})

    def tensors(self) -> dict[str, torch.Tensor]:
        """What this worker holds, by name; changing it changes the weights."""
        return {**{name: part.tensor for name, part in self._parts.items()}, **self._whole}

    def slices(self, worker: WorkerRank, averages: Mapping[str, torch.Tensor] | None = None) -> list[TensorSlice]:
        """What this worker writes."""
        sizes = {name: tensor.nbytes for name, tensor in self._whole.items() if name not in self._buffers}
        owners = {
            **dict.fromkeys(self._buffers, 0),
            **share_out(sizes, worker.world_size),
        }  # running statistics: rank 0
        found = []
        for name, tensor in self._whole.items():
            if owners[name] == worker.rank:
                stored, value = _stored(name, tensor, averages)
                found.append(whole(stored, value))
        for name, part in self._parts.items():
            stored, value = _stored(name, part.tensor, averages)
            found += Partition(shape=part.shape, start=part.start, tensor=value).slices(stored)
        return found

    def fill(self, reader: CheckpointReader, averages: Mapping[str, torch.Tensor] | None = None) -> None:
        """Read what this worker holds."""
        for name, tensor in self._whole.items():
            stored, value = _stored(name, tensor, averages)
            fill(value, reader, stored)
        for name, part in self._parts.items():
            stored, value = _stored(name, part.tensor, averages)
            Partition(shape=part.shape, start=part.start, tensor=value).fill(reader, stored)


def _stored(name: str, tensor: torch.Tensor, averages: Mapping[str, torch.Tensor] | None) -> tuple[str, torch.Tensor]:
    """The name in a checkpoint, and the tensor, of a weight or of its average."""
    if averages is None:
        return name, tensor
    return average_name(name), averages[average_name(name)]
