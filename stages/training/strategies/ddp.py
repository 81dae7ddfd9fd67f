"""Replicated on every worker: DistributedDataParallel, or the module itself where there is one worker."""

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stages.training.agreement import WorkerRank
from stages.training.program import Pass


class Replicated:
    """`torch_strategy.Wrapping`. Workers may make different numbers of micro-steps."""

    equal_micro_steps = False

    def __init__(self, worker: WorkerRank) -> None:
        self._worker = worker

    def shard(self, training_pass: Pass) -> nn.Module:
        return training_pass.module

    def wrap(self, training_pass: Pass) -> nn.Module:
        return replicate(training_pass.module, self._worker)

    def accumulate(self, module: nn.Module) -> AbstractContextManager[None]:
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def replicate(module: nn.Module, worker: WorkerRank) -> nn.Module:
    if worker.world_size == 1:
        return module
    devices = [worker.device] if worker.device.type == "cuda" else None
    # A micro-batch without images, for example, leaves the adapters unused.
    return DistributedDataParallel(
        module, device_ids=devices, find_unused_parameters=True, gradient_as_bucket_view=True
    )
