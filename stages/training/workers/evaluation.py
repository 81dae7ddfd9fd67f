"""One validation of the newest committed checkpoint, in a process that trains nothing."""

import logging

import torch

from models.errors import DataError
from orchestrator.stage import Checkpoint
from stages.node_data import open_inputs
from stages.training.agreement import WorkerRank
from stages.training.program import validation_of
from stages.training.strategies.ddp import Replicated
from stages.training.strategies.torch_strategy import TorchStrategy
from stages.training.watching.notices import Notice
from stages.training.watching.validation import validate
from stages.training.workers.worker import WorkerSettings

logger = logging.getLogger(__name__)

TRIES = 2  # training may delete a checkpoint while it is read; then there is a newer one


class ValidationFailedError(DataError):
    """The validation data cannot be read."""


def evaluate_newest(settings: WorkerSettings, device: torch.device) -> tuple[int, dict[str, float]]:
    """Steps done, and the metrics of the validation of that checkpoint.

    Raises: ValidationFailedError, CheckpointError, whatever the program raises.
    """
    torch.set_num_threads(max(1, int(settings.cpus)))
    open_inputs(settings.inputs, in_random_order=True)
    checkpoint = settings.checkpoints.latest()
    for attempt in range(TRIES):
        if checkpoint is None:
            raise ValidationFailedError("there is no committed checkpoint")
        try:
            return checkpoint.step, _evaluate(settings, checkpoint, device)
        except Exception as error:
            newer = settings.checkpoints.latest()
            if attempt + 1 == TRIES or newer is None or newer.step == checkpoint.step:
                raise
            logger.warning("checkpoint %d: %s; evaluating %d instead", checkpoint.step, error, newer.step)
            checkpoint = newer
    raise AssertionError("the last try returns or raises")


def _evaluate(settings: WorkerSettings, checkpoint: Checkpoint, device: torch.device) -> dict[str, float]:
    torch.manual_seed(settings.loop.seed)
    worker = WorkerRank(rank=0, world_size=1, device=device)
    program = settings.program_class(settings.task, device)
    data = validation_of(program)
    if data is None:
        raise ValidationFailedError("the program has no validation data")
    strategy = TorchStrategy(program, settings.loop, worker, Replicated(worker), saved=())
    strategy.load_weights(checkpoint.path)

    def fail(notice: Notice) -> None:
        raise ValidationFailedError(str(notice.fields["message"]))

    return validate(
        program,
        data,
        strategy,
        step=checkpoint.step,
        max_micro_batches=settings.execution.watch.validate_micro_batches,
        worker=worker,
        notify=fail,
    )
