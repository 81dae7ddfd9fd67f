"""Makes the strategy that `execution` asks for, and refuses one that cannot work before anything starts."""

from orchestrator.errors import PrecheckError
from orchestrator.installation.extras import require_extra
from orchestrator.stage import Resources
from stages.training.agreement import WorkerRank
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.program import TrainingProgram
from stages.training.strategies.mesh import check_mesh
from stages.training.strategies.strategy import Strategy


def check_strategy(execution: TrainingExecution, loop: LoopConfig, resources: Resources) -> None:
    """Raises: PrecheckError, MissingExtraError, with the smallest change that would work."""
    if execution.strategy == "deepspeed":
        require_extra("deepspeed")
        if loop.average_decay:
            raise PrecheckError(
                "execution.strategy: deepspeed keeps no moving average of the weights; set loop.average_decay to 0, or "
                "the strategy to fsdp2"
            )
    if execution.strategy == "fsdp2":
        for workers in {resources.workers, resources.min_workers or resources.workers}:
            check_mesh(workers, execution.shard_workers)


def make_strategy(
    program: TrainingProgram, loop: LoopConfig, execution: TrainingExecution, worker: WorkerRank
) -> Strategy:
    """Spread a program over the workers; called by all of them at once."""
    if execution.strategy == "deepspeed":
        from stages.training.strategies.deepspeed_zero import DeepSpeedStrategy  # late: an extra

        return DeepSpeedStrategy(program, loop, worker, execution)
    from stages.training.strategies.torch_strategy import TorchStrategy

    if execution.strategy == "fsdp2" and worker.world_size > 1:
        from stages.training.strategies.fsdp2 import FullySharded

        return TorchStrategy(program, loop, worker, FullySharded(worker, loop, shard_workers=execution.shard_workers))
    from stages.training.strategies.ddp import Replicated

    return TorchStrategy(program, loop, worker, Replicated(worker))
