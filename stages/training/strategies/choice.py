"""Makes the strategy that `execution` asks for."""

from stages.training.agreement import WorkerRank
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.program import TrainingProgram
from stages.training.strategies.ddp import Replicated
from stages.training.strategies.fsdp2 import FullySharded
from stages.training.strategies.strategy import Strategy
from stages.training.strategies.torch_strategy import TorchStrategy


def make_strategy(
    program: TrainingProgram, loop: LoopConfig, execution: TrainingExecution, worker: WorkerRank
) -> Strategy:
    """Spread a program over the workers; called by all of them at once."""
    if execution.strategy == "deepspeed":
        from stages.training.strategies.deepspeed_strategy import DeepSpeedStrategy  # an optional package

        return DeepSpeedStrategy(program, loop, execution, worker)
    if execution.strategy == "fsdp2" and worker.world_size > 1:
        wrapping = FullySharded(worker, loop, shard_workers=execution.shard_workers)
        return TorchStrategy(program, loop, worker, wrapping)
    return TorchStrategy(program, loop, worker, Replicated(worker))
