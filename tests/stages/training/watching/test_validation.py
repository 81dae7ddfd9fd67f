"""Validation by the training workers: it changes nothing, fails alone, and the best checkpoint is kept."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.training.agreement import WorkerRank
from stages.training.config import LoopConfig, TrainingExecution, WatchSettings
from stages.training.loop import run_worker
from stages.training.program import MicroBatch
from stages.training.watching.notices import VALIDATION_FAILED
from stages.training.watching.validation import Best, best_of, in_eval_mode
from tests.stages.training.test_loop import EVERY_5, LOOP, Recorder, checkpoints, trained
from tests.stages.training.toy import CPU, ToyProgram, ToyTask

SETTINGS = WatchSettings(validate_every=2, validate_micro_batches=3, keep_best="fit/loss")


class HeldOut:
    """Five micro-batches that no step has; reading one, or counting them, may fail."""

    def __init__(self, program: ToyProgram, *, fails: bool, fails_at_once: bool) -> None:
        self._program, self._fails, self._fails_at_once = program, fails, fails_at_once

    @property
    def num_micro_batches(self) -> int:
        if self._fails_at_once:
            raise OSError("shard 7 is gone")
        return 5

    def micro_batch(self, index: int) -> MicroBatch:
        if self._fails and index == 2:
            raise OSError("shard 7 is gone")
        return self._program.micro_batch(10_000, index)


class ValidatedProgram(ToyProgram):
    def __init__(self, task: ToyTask, device: torch.device = CPU) -> None:
        super().__init__(task, device)
        self.validation = HeldOut(self, fails=task.poison_step == -2, fails_at_once=task.poison_step == -3)


def train(folder: Path, task: ToyTask, settings: WatchSettings, loop: LoopConfig = LOOP) -> Recorder:
    recorder = Recorder()
    run_worker(
        ValidatedProgram,
        task,
        loop,
        retry=EVERY_5,
        checkpoints=checkpoints(folder),
        reporter=recorder,
        worker=WorkerRank(rank=0, world_size=1, device=CPU),
        execution=TrainingExecution(watch=settings, keep_checkpoints=1),
    )
    return recorder


def values_of(recorder: Recorder) -> dict[int, float]:
    name = "validation/fit/loss"
    return {step: metrics[name] for step, metrics in recorder.steps if name in metrics}


def test_held_out_data_are_judged_at_an_interval_and_training_keeps_its_bits(tmp_path: Path) -> None:
    train(tmp_path / "plain", ToyTask(), WatchSettings())
    recorder = train(tmp_path / "validated", ToyTask(), SETTINGS)
    assert list(values_of(recorder)) == [2, 4, 6, 8, 10, 12]
    expected = trained(tmp_path / "plain")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trained(tmp_path / "validated").items())


def test_the_value_is_the_mean_over_the_held_out_micro_batches(tmp_path: Path) -> None:
    recorder = train(tmp_path, ToyTask(), SETTINGS)
    program = ValidatedProgram(ToyTask())
    program.model.load_state_dict(trained(tmp_path))
    total, weight = 0.0, 0.0
    for index in range(3):
        batch = program.validation.micro_batch(index)
        output = program.passes[0].module(batch.data, torch.Generator().manual_seed(batch.seed), 12)
        total, weight = total + float(output.loss_sum.detach()), weight + batch.weight
    assert values_of(recorder)[12] == pytest.approx(total / weight, rel=1e-5)


@pytest.mark.parametrize("poison_step", [-2, -3])
def test_a_validation_that_fails_is_named_and_ends_nothing(poison_step: int, tmp_path: Path) -> None:
    recorder = train(tmp_path, ToyTask(poison_step=poison_step), SETTINGS)
    assert recorder.steps[-1][0] == LOOP.steps
    assert values_of(recorder) == {}
    failed = [notice for notice in recorder.notices if notice.kind == VALIDATION_FAILED]
    assert len(failed) == 6
    assert "worker 0: OSError: shard 7 is gone" in failed[0].fields["message"]


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path: Path) -> None:
    """With a learning rate far too high the loss is best early."""
    loop = replace(LOOP, steps=20, optimizer=replace(LOOP.optimizer, name="adam", schedule="constant"))
    recorder = train(tmp_path, ToyTask(loss_scale=1.0), SETTINGS, loop)
    values = values_of(recorder)
    best = min(values, key=lambda step: values[step])
    kept = {int(path.parent.name) for path in tmp_path.rglob("checkpoints/*/COMMIT")}
    found = checkpoints(tmp_path).latest()
    assert found is not None
    assert found.step == 20
    assert best_of(found.meta) == Best(step=best, value=values[best])
    assert best in kept


def test_modules_return_to_the_mode_that_each_was_in() -> None:
    outer = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    outer[1].eval()
    with in_eval_mode(outer):
        assert not any(part.training for part in outer.modules())
    assert [part.training for part in outer.modules()] == [True, True, False, False]


def test_the_best_needs_a_validation() -> None:
    with pytest.raises(ValueError, match="keep_best: needs the metrics of a validation"):
        WatchSettings(keep_best="fit/loss")
