"""Strategies of torch itself: each worker runs the modules, and a wrapping exchanges gradients or shards parameters.

One process, DistributedDataParallel and FSDP2 differ in the wrapping only.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from stages.training.agreement import WorkerRank
from stages.training.checkpoints.reader import CheckpointReader, check_frozen, check_shapes, open_checkpoint
from stages.training.checkpoints.slices import TensorSlice, share_out, whole
from stages.training.config import LoopConfig
from stages.training.program import MicroBatch, Pass, PassOutput, TrainingProgram, initial_of
from stages.training.strategies.averages import Averages, average_name
from stages.training.strategies.blocks import fill, local_block, sharded_slice
from stages.training.strategies.initial import fill_weights, halve_frozen, materialize, names_on_meta
from stages.training.strategies.optimizers import PassOptimizer, slots_by_pass
from stages.training.strategies.weights import buffer_names, frozen_weights, live_weights


class Wrapping(Protocol):
    """How modules are spread."""

    @property
    def equal_micro_steps(self) -> bool: ...

    def shard(self, training_pass: Pass) -> nn.Module:
        """Divide the parameters, which may be on the meta device; they are others afterwards, under the same names.

        Returns the root of the pass's modules.
        """

    def wrap(self, training_pass: Pass) -> nn.Module:
        """The module to call instead of the pass's, after `shard`, and once its parameters have their values."""

    def accumulate(self, module: nn.Module) -> AbstractContextManager[None]:
        """Inside it, gradients are added up without an exchange, where that is possible."""


def part_of(name: str) -> str:
    """The part of a model that a parameter belongs to: a layer, or what the first two words of its name say."""
    words = name.split(".")[:-1]
    numbers = [index for index, word in enumerate(words) if word.isdigit()]
    return ".".join(words[: numbers[0] + 1] if numbers else words[:2]) or name


class TorchStrategy:
    """`Strategy` with a wrapping. Making it spreads the program; all workers do so at the same time."""

    def __init__(
        self,
        program: TrainingProgram,
        loop: LoopConfig,
        worker: WorkerRank,
        wrapping: Wrapping,
        *,
        saved: Collection[str] = (),
    ) -> None:
        """`saved`: weights that `load` reads from a checkpoint."""
        self._program, self._loop, self._worker, self._wrapping = program, loop, worker, wrapping
        self._frozen = dict(frozen_weights(program, worker).digests)
        self._buffers = buffer_names(program.weights)
        self._optimizers = {each.name: PassOptimizer(each) for each in program.passes}
        if loop.precision == "bf16":
            halve_frozen(program, self._frozen)
        unread = names_on_meta(program)
        roots = [wrapping.shard(training_pass) for training_pass in program.passes]
        if (initial := initial_of(program)) is not None:
            materialize(roots, worker.device)
            fill_weights(program, initial, unread.difference(saved))
        self._modules = {each.name: wrapping.wrap(each) for each in program.passes}
        for optimizer in self._optimizers.values():
            optimizer.build(loop.optimizer)
        self._averages = Averages(self._saved_weights, loop.average_decay) if loop.average_decay else None

    @property
    def equal_micro_steps(self) -> bool:
        return self._wrapping.equal_micro_steps

    @property
    def frozen(self) -> Mapping[str, str]:
        return self._frozen

    def load(self, folder: Path) -> None:
        reader = self._load_weights(folder)
        slots = slots_by_pass(reader)
        for name, optimizer in self._optimizers.items():
            optimizer.load(reader, slots.get(name, {}))

    def load_weights(self, folder: Path) -> None:
        """`load` without the states of the optimizers, for a program that is not trained. Raises: CheckpointError."""
        self._load_weights(folder)

    def _load_weights(self, folder: Path) -> CheckpointReader:
        names = {name: optimizer.parameter_names for name, optimizer in self._optimizers.items()}
        reader = open_checkpoint(folder, names)
        weights = live_weights(self._program.weights)
        tensors = {**weights, **(self._averages.tensors if self._averages else {})}
        optional = {average_name(name) for name in self._frozen} if self._averages else set()
        wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in optional}
        kept = {name: shape for name, shape in reader.shapes.items() if name in optional}
        check_shapes(reader, {**wanted, **kept}, where=str(folder))
        check_frozen(reader, self._frozen.items(), where=str(folder))
        for name, tensor in tensors.items():
            if name in reader.shapes:
                fill(tensor, reader, name)
        return reader

    def begin_step(self, training_pass: Pass, factor: float) -> None:
        optimizer = self._optimizers[training_pass.name]
        optimizer.set_rates(factor)
        optimizer.optimizer.zero_grad(set_to_none=True)

    def micro_step(
        self, training_pass: Pass, micro_batch: MicroBatch, *, step: int, scale: float, is_last: bool
    ) -> PassOutput:
        module = self._modules[training_pass.name]
        generator = torch.Generator().manual_seed(micro_batch.seed)
        with nullcontext() if is_last else self._wrapping.accumulate(module):
            with self._autocast():
                output: PassOutput = module(micro_batch.data, generator, step)
            (output.loss_sum * scale).backward()  # never under autocast
        return output

    def evaluate(self, training_pass: Pass, micro_batch: MicroBatch, *, step: int) -> PassOutput:
        module = self._modules[training_pass.name]
        if isinstance(module, DistributedDataParallel):  # it would exchange buffers
            module = module.module
        with torch.no_grad(), self._autocast():
            output: PassOutput = module(micro_batch.data, torch.Generator().manual_seed(micro_batch.seed), step)
        return output

    def clip(self, training_pass: Pass) -> torch.Tensor:
        parameters = self._optimizers[training_pass.name].parameters
        for parameter in parameters:
            if parameter.grad is None:  # used by no micro-batch: the optimizer still sees it, for any number of workers
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(parameters, self._loop.optimizer.clip_norm or float("inf"))
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def apply(self, training_pass: Pass) -> None:
        self._optimizers[training_pass.name].optimizer.step()

    def end_step(self, step: int) -> None:
        if self._averages:
            self._averages.update(step)

    def learning_rates(self, training_pass: Pass) -> Sequence[float]:
        return self._optimizers[training_pass.name].rates()

    def gradient_norms(self, training_pass: Pass, norm: float) -> Mapping[str, float]:
        optimizer = self._optimizers[training_pass.name]
        squares: dict[str, float] = {}
        for name, parameter in zip(optimizer.parameter_names, optimizer.parameters, strict=True):
            found = torch.linalg.vector_norm(parameter.grad.float()) if parameter.grad is not None else 0.0
            value = float(found.full_tensor() if isinstance(found, DTensor) else found)
            squares[part_of(name)] = squares.get(part_of(name), 0.0) + value**2
        whole = math.sqrt(sum(squares.values())) or 1.0
        return {part: norm * math.sqrt(square) / whole for part, square in squares.items()}  # as before clipping

    def slices(self) -> list[TensorSlice]:
        tensors = {**self._saved_weights(), **(self._averages.tensors if self._averages else {})}
        for optimizer in self._optimizers.values():
            tensors.update(optimizer.states())
        replicated = {name: tensor for name, tensor in tensors.items() if local_block(tensor).is_replicated}
        # Running statistics are those of rank 0, which it sends to the others before each forward pass.
        first = {*self._buffers, *map(average_name, self._buffers)}
        sizes = {name: tensor.nbytes for name, tensor in replicated.items() if name not in first}
        owners = {**dict.fromkeys(first, 0), **share_out(sizes, self._worker.world_size)}
        sharded = (sharded_slice(name, tensor) for name, tensor in tensors.items() if name not in replicated)
        own = [whole(name, tensor) for name, tensor in replicated.items() if owners[name] == self._worker.rank]
        return own + [item for item in sharded if item is not None]

    def _saved_weights(self) -> dict[str, torch.Tensor]:
        weights = live_weights(self._program.weights)
        return {name: tensor for name, tensor in weights.items() if name not in self._frozen}

    def _autocast(self) -> AbstractContextManager[object]:
        if self._loop.precision == "bf16":
            return torch.autocast(self._worker.device.type, dtype=torch.bfloat16)
        return nullcontext()
