"""Training workers as plain processes; killed, hung and stopped ones are in tests/chaos/test_training_workers.py."""

from pathlib import Path

import pytest
import torch

from orchestrator.errors import NumericError, PrecheckError
from orchestrator.failures.classes import classify
from orchestrator.failures.failure_class import FailureClass
from orchestrator.plugins.loading import load_file
from orchestrator.stage import Resources
from stages.training.config import LoopConfig
from stages.training.driver import train
from stages.training.workers.process_group import ProcessGroup
from stages.training.workers.worker import worker_settings
from tests.stages.training.stage_context import TrainingContext
from tests.stages.training.toy import ToyProgram, ToyTask

LOOP = LoopConfig(steps=4, micro_batches_per_step=2, seed=1, max_skips=0)


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("with a file")
        self.file = open(__file__)  # noqa: SIM115 - what cannot be pickled


class BrokenProgram(ToyProgram):
    """Cannot be built, on the last worker only."""

    def __init__(self, task: ToyTask, device: torch.device) -> None:
        super().__init__(task, device)
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 0:
            return
        raise UnpicklableError if task.seed == 13 else ValueError("width: found 3, expected 4")


def test_a_program_of_a_plugin_file_is_loaded_in_its_workers(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from tests.stages.training.toy import ToyProgram\n\n\nclass Mine(ToyProgram):\n    pass\n")
    program = load_file(file).Mine
    result = train(program, ToyTask(), LOOP, TrainingContext(tmp_path, resources=Resources(workers=2)))
    assert result.checkpoint.step == LOOP.steps


def test_an_error_of_the_program_keeps_its_traceback_and_its_class(tmp_path: Path) -> None:
    context = TrainingContext(tmp_path, resources=Resources(workers=2))
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ValueError: width: found 3, expected 4") as raised:
        train(BrokenProgram, ToyTask(), LOOP, context)
    assert classify(raised.value) is FailureClass.USER_CODE


def test_an_error_that_cannot_be_sent_arrives_as_text(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*UnpicklableError: with a file"):
        train(BrokenProgram, ToyTask(seed=13), LOOP, TrainingContext(tmp_path))


def test_the_error_that_a_worker_raised_on_purpose_is_raised_by_the_driver(tmp_path: Path) -> None:
    with pytest.raises(NumericError, match="step 2, pass fit: loss nan"):
        train(ToyProgram, ToyTask(poison_step=2), LOOP, TrainingContext(tmp_path))


def test_gpus_are_left_to_ray_which_assigns_them(tmp_path: Path) -> None:
    context = TrainingContext(tmp_path, resources=Resources(gpus=1.0))
    with pytest.raises(PrecheckError, match=r"toy: resources.gpus: found 1, expected 0 with plain_training_workers"):
        ProcessGroup(worker_settings(ToyProgram, ToyTask(), LOOP, context), context)
