"""Makes the strategy that `execution` asks for."""

from collections.abc import Collection
from pathlib import Path

from stages.training.agreement import WorkerRank
from stages.training.checkpoints.reader import open_checkpoint
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.program import TrainingProgram
from stages.training.strategies.ddp import Replicated
from stages.training.strategies.fsdp2 import FullySharded
from stages.training.strategies.strategy import Strategy
from stages.training.strategies.torch_strategy import TorchStrategy


def make_strategy(
    program: TrainingProgram,
    loop: LoopConfig,
    execution: TrainingExecution,
    worker: WorkerRank,
    *,
    checkpoint: Path | None = None,
) -> Strategy:
    """Spread a program over the workers, with its weights or those of a checkpoint; called by all of them at once.

    Raises: CheckpointError: the checkpoint is of another model.
    """
    saved = () if checkpoint is None else open_checkpoint(checkpoint).shapes.keys()
    strategy = _spread(program, loop, execution, worker, saved)
    if checkpoint is not None:
        strategy.load(checkpoint)
    return strategy


def _spread(
    program: TrainingProgram,
    loop: LoopConfig,
    execution: TrainingExecution,
    worker: WorkerRank,
    saved: Collection[str],
) -> Strategy:
    if execution.strategy == "deepspeed":
        from stages.training.strategies.deepspeed_strategy import DeepSpeedStrategy  # an optional package

        return DeepSpeedStrategy(program, loop, execution, worker)
    if execution.strategy == "fsdp2" and worker.world_size > 1:
        wrapping = FullySharded(worker, loop, shard_workers=execution.shard_workers)
        return TorchStrategy(program, loop, worker, wrapping, saved=saved)
    return TorchStrategy(program, loop, worker, Replicated(worker), saved=saved)
