"""Silent corruption: a step that is computed twice must give the same bits on each worker, and replicas must be equal.

A device that computes wrong raises nothing. Every check names the workers that differ; a worker counts as corrupt when
of three computations of the same step two are not equal, or when its replica of the parameters is not that of most.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from orchestrator.errors import NodeLostError
from stages.training.agreement import WorkerRank, gather_numbers
from stages.training.program import MicroBatch, Pass, PassOutput, TrainingProgram, micro_batch_seed
from stages.training.strategies.strategy import Strategy

_AS_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


ODD_REPLICA = "its parameters are not those of the other workers"


class CorruptWorkerError(NodeLostError):
    """A worker computed something else than before, or than the others, from the same numbers."""


def is_verified(step: int, *, every: int, seed: int) -> bool:
    """Whether a step is computed twice: one in `every`, the same on all workers, and not foreseeable by the data."""
    return every > 0 and micro_batch_seed(seed, step, every) % every == 0


def verify_step(
    program: TrainingProgram,
    strategy: Strategy,
    micro_batches: Sequence[MicroBatch],
    *,
    step: int,
    num_micro_steps: int,
    worker: WorkerRank,
) -> dict[int, str]:
    """Compute a step's losses and gradients again and compare. Returns what differs, by rank; {}: nothing.

    Called by all workers at once, before the step. It changes nothing: buffers and random states are put back, and
    gradients are cleared by the step.
    """
    found: dict[int, str] = {}
    for training_pass in program.passes:
        if step < training_pass.first_step:
            continue

        def compute(training_pass: Pass = training_pass) -> int:
            with unchanged_buffers(program.weights.values()), torch.random.fork_rng(cuda_devices(worker)):
                return _checksum_of_step(strategy, training_pass, micro_batches, step, num_micro_steps)

        runs = [compute(), compute()]
        differ = _ranks_where(runs[0] != runs[1], worker)
        if differ:  # a witness: what was the matter once may have been the matter with the second computation only
            runs.append(compute())
            differ = _ranks_where(len(set(runs)) > 1, worker)
        for rank in differ:
            found.setdefault(rank, f"pass {training_pass.name}: the same step gave other losses or gradients")
    return found


def _checksum_of_step(
    strategy: Strategy, training_pass: Pass, micro_batches: Sequence[MicroBatch], step: int, num_micro_steps: int
) -> int:
    strategy.begin_step(training_pass, 0.0)
    total = 0
    for index in range(num_micro_steps):
        micro_batch = micro_batches[index if index < len(micro_batches) else 0]
        output: PassOutput = strategy.micro_step(training_pass, micro_batch, step=step, scale=1.0, is_last=False)
        total += checksum([output.loss_sum.detach()])
    gradients = [parameter.grad for parameter in training_pass.module.parameters()]
    total += checksum([gradient for gradient in gradients if gradient is not None])
    return total % 2**62


def cuda_devices(worker: WorkerRank) -> list[torch.device]:
    return [worker.device] if worker.device.type == "cuda" else []


@contextmanager
def unchanged_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put running statistics back at the end."""
    buffers = [buffer for module in modules for buffer in module.buffers()]
    before = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def checksum(tensors: Sequence[torch.Tensor]) -> int:
    """A number that changes when any bit of what this worker holds of the tensors does."""
    total = 0
    for number, tensor in enumerate(tensors, start=1):
        local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().contiguous()
        bits = local.view(-1).view(_AS_INTEGERS[local.element_size()]).to(torch.int64)
        total += number * int(bits.sum())
    return total % 2**62


def odd_replicas(program: TrainingProgram, worker: WorkerRank) -> list[int]:
    """The workers whose parameters are not those of most; all, where no two thirds agree. Not asked where sharded."""
    parameters = [p for module in program.weights.values() for p in module.parameters()]
    if worker.world_size == 1 or any(isinstance(parameter, DTensor) for parameter in parameters):
        return []
    of_all = gather_numbers(checksum(parameters), worker)
    usual, count = Counter(of_all).most_common(1)[0]
    if 2 * count <= worker.world_size:
        return list(range(worker.world_size))
    return [rank for rank, found in enumerate(of_all) if found != usual]


def _ranks_where(is_so: bool, worker: WorkerRank) -> list[int]:
    return [rank for rank, found in enumerate(gather_numbers(int(is_so), worker)) if found]
