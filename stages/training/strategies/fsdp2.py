"""Parameters, gradients and optimizer states sharded over workers: FSDP2, or HSDP where a mesh replicates the shards.

The units of a pass are gathered one at a time; everything else of it, as vision towers that run a different number of
times on each worker, is gathered once a forward pass.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from stages.training.agreement import WorkerRank
from stages.training.config import LoopConfig
from stages.training.program import Pass, PassOutput
from stages.training.strategies.ddp import replicate
from stages.training.strategies.mesh import check_mesh
from stages.training.strategies.tensor_outputs import TensorsOut


class Sharded(nn.Module):
    """A pass whose parameters are sharded."""

    def __init__(self, root: TensorsOut) -> None:
        super().__init__()
        self.root = root

    def forward(self, data: object, generator: torch.Generator, step: int) -> PassOutput:
        return self.root.output(self.root(data, generator, step))


class FullySharded:
    """`torch_strategy.Wrapping`. Every micro-step exchanges data, so all workers make as many."""

    equal_micro_steps = True

    def __init__(self, worker: WorkerRank, loop: LoopConfig, *, shard_workers: int) -> None:
        """`shard_workers`: workers that hold one copy together, e.g. those of a node; 0: all. Raises: PrecheckError."""
        self._worker = worker
        self._roots: dict[str, TensorsOut] = {}
        self._mesh = sharding_mesh(worker, shard_workers)
        # Shards stay in fp32; what a unit computes with, and sends, is bf16. The rest decides by autocast.
        half = torch.bfloat16 if loop.precision == "bf16" else None
        self._of_units = MixedPrecisionPolicy(
            param_dtype=half, reduce_dtype=torch.float32 if half else None, cast_forward_inputs=False
        )

    def shard(self, training_pass: Pass) -> nn.Module:
        if training_pass.units is None:
            return training_pass.module
        for unit in training_pass.units:
            fully_shard(unit, mesh=self._mesh, mp_policy=self._of_units)
        root = self._roots[training_pass.name] = TensorsOut(training_pass.module)
        fully_shard(root, mesh=self._mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
        return root

    def wrap(self, training_pass: Pass) -> nn.Module:
        root = self._roots.get(training_pass.name)
        return replicate(training_pass.module, self._worker) if root is None else Sharded(root)

    def accumulate(self, module: nn.Module) -> AbstractContextManager[None]:
        # Sharded gradients are added up, which keeps no whole gradient in memory.
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def sharding_mesh(worker: WorkerRank, shard_workers: int) -> DeviceMesh:
    check_mesh(worker.world_size, shard_workers)
    if shard_workers in (0, worker.world_size):
        return init_device_mesh(worker.device.type, (worker.world_size,), mesh_dim_names=("shard",))
    shape = (worker.world_size // shard_workers, shard_workers)
    return init_device_mesh(worker.device.type, shape, mesh_dim_names=("replicate", "shard"))
