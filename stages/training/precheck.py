"""What a kind of training refuses before a run starts, from its execution and resources."""

from typing import Protocol

from orchestrator.stage import Resources
from stages.training.config import LoopConfig, TrainingExecution


class TrainConfig(Protocol):
    @property
    def loop(self) -> LoopConfig: ...


def precheck_execution(config: TrainConfig, execution: TrainingExecution, resources: Resources) -> None:
    """The `precheck_execution` of a kind of training. Raises: PrecheckError: see `check_layout`."""
    from stages.training.strategies.prechecks import check_layout

    check_layout(execution, resources, config.loop.optimizer)
