"""What a worker holds of weights and optimizer states under ZeRO: stretches of flat tensors that DeepSpeed keeps."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from stages.training.checkpoints.reader import CheckpointReader
from stages.training.checkpoints.slices import Shape
from stages.training.strategies.optimizers import COUNT
from stages.training.strategies.partitions import Partition


class ZeroStates:
    """Of one engine. The stretches share their memory with it."""

    def __init__(self, engine: Any, optimizer: torch.optim.Optimizer) -> None:
        self._engine, self._zero, self._optimizer = engine, engine.optimizer, optimizer
        self._is_third = engine.zero_optimization_stage() == 3

    def weight(self, parameter: nn.Parameter) -> Partition | None:
        """In fp32, of a parameter that trains; None if this worker holds nothing of it."""
        found = self._stretch(parameter)
        if found is None:
            return None
        flat, at, start, length = found
        return Partition(shape=shape_of(parameter), start=start, tensor=flat.data.narrow(0, at, length))

    def slots(self, parameter: nn.Parameter) -> dict[str, Partition]:
        """The optimizer's states of a parameter by name; none before the first step."""
        found = self._stretch(parameter)
        if found is None:
            return {}
        flat, at, start, length = found
        shape, slots = shape_of(parameter), dict[str, Partition]()
        for slot, state in self._optimizer.state.get(flat, {}).items():
            tensor = torch.as_tensor(state)
            if slot != COUNT:
                slots[slot] = Partition(shape=shape, start=start, tensor=tensor.narrow(0, at, length))
            elif start == 0:  # one worker writes it
                slots[slot] = Partition(shape=(), start=0, tensor=tensor.reshape(1))
        return slots

    def fill_slot(self, parameter: nn.Parameter, slot: str, reader: CheckpointReader, name: str) -> None:
        """Read this worker's stretch of a state, which need not exist before."""
        found = self._stretch(parameter)
        if found is None:
            return
        flat, at, start, length = found
        states = self._optimizer.state[flat]
        if slot == COUNT:
            states[slot] = reader.read(name, (), ()).to(flat.device)
            return
        if slot not in states:
            states[slot] = torch.zeros_like(flat.data)
        Partition(shape=shape_of(parameter), start=start, tensor=states[slot].narrow(0, at, length)).fill(reader, name)

    def weights_were_loaded(self) -> None:
        """Bring the weights to compute with in line with the fp32 ones; all workers at once."""
        if not self._is_third:
            self._zero.update_lp_params()
            return
        whole = self._zero.persistent_parameters
        self._zero._partition_all_parameters()
        for number in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(number)
        if whole:
            whole[0].all_gather(whole)

    @property
    def divides_frozen(self) -> bool:
        """Whether parameters that do not train are divided too."""
        return self._is_third

    def frozen(self, parameter: Any) -> Partition | None:
        """Of a parameter that DeepSpeed divides and that does not train; None if this worker holds nothing of it."""
        return _cut(parameter, parameter.ds_tensor.data)

    def _stretch(self, parameter: Any) -> tuple[torch.Tensor, int, int, int] | None:
        """Flat tensor, offset in it, first element of the parameter, number of elements."""
        if self._is_third:
            group, at, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
            part = _cut(parameter, parameter.ds_tensor)
            if part is None:
                return None
            return self._zero.fp32_partitioned_groups_flat[group], at, part.start, part.tensor.numel()
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        flat = self._zero.single_partition_of_fp32_groups[mapping.param_group_index]
        return (
            flat,
            mapping.hp_fragment_address.start,
            mapping.lp_fragment_address.start,
            mapping.lp_fragment_address.numel,
        )


def _cut(parameter: Any, held: torch.Tensor) -> Partition | None:
    """What is held of a parameter, without the padding behind its end."""
    size = held.numel()
    start = dist.get_rank() * size
    length = min(size, parameter.ds_numel - start)
    if length <= 0:
        return None
    return Partition(shape=shape_of(parameter), start=start, tensor=held.reshape(-1)[:length])


def shape_of(parameter: nn.Parameter) -> Shape:
    """Of the whole parameter, wherever its elements are."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))  # ZeRO-3 empties what it has divided
