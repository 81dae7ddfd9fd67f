"""One validation of a committed checkpoint says what the training workers say of the same step."""

from dataclasses import replace
from pathlib import Path

import pytest

from stages.training.config import TrainingExecution, WatchSettings
from stages.training.workers.evaluation import ValidationFailedError, evaluate_newest
from stages.training.workers.worker import WorkerSettings, worker_settings
from tests.stages.training.stage_context import TrainingContext
from tests.stages.training.test_loop import LOOP, checkpoints
from tests.stages.training.toy import CPU, ToyProgram, ToyTask
from tests.stages.training.watching.test_validation import SETTINGS, ValidatedProgram, train, values_of


def settings_of(folder: Path, watch: WatchSettings = SETTINGS) -> WorkerSettings:
    context = TrainingContext(folder, settings=TrainingExecution(watch=watch))
    found = worker_settings(ValidatedProgram, ToyTask(), LOOP, context)
    return replace(found, checkpoints=checkpoints(folder))


@pytest.mark.parametrize("average_decay", [0.0, 0.5])
def test_a_checkpoint_has_the_loss_that_its_training_saw(average_decay: float, tmp_path: Path) -> None:
    loop = replace(LOOP, average_decay=average_decay)
    values = values_of(train(tmp_path, ToyTask(), SETTINGS, loop))
    step, metrics = evaluate_newest(replace(settings_of(tmp_path), loop=loop), CPU)
    assert step == LOOP.steps
    assert metrics["validation/fit/loss"] == values[step]


def test_a_checkpoint_that_is_deleted_meanwhile_gives_way_to_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, ToyTask(), SETTINGS)
    settings = settings_of(tmp_path)
    newest = settings.checkpoints.latest()
    assert newest is not None
    answers = [replace(newest, step=2, path=tmp_path / "deleted"), newest]
    monkeypatch.setattr(type(settings.checkpoints), "latest", lambda _self: answers.pop(0))
    assert evaluate_newest(settings, CPU)[0] == LOOP.steps


def test_what_cannot_be_evaluated_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailedError, match="no committed checkpoint"):
        evaluate_newest(settings_of(tmp_path), CPU)
    train(tmp_path, ToyTask(), SETTINGS)
    with pytest.raises(ValidationFailedError, match="the program has no validation data"):
        evaluate_newest(replace(settings_of(tmp_path), program_class=ToyProgram), CPU)
    broken = replace(settings_of(tmp_path), task=ToyTask(poison_step=-2))
    with pytest.raises(ValidationFailedError, match="worker 0: OSError: shard 7 is gone"):
        evaluate_newest(broken, CPU)
