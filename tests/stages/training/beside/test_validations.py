"""Validations beside a training: when they begin, what is made of their ends, and that training waits for none."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.stage import RetryPolicy
from stages.training.beside.side_run import Evaluated, SideRun
from stages.training.beside.validations import ValidationsBeside, start_side_run
from stages.training.config import TrainingExecution, WatchSettings
from stages.training.driver import train
from stages.training.workers.worker import WorkerSettings, worker_settings
from tests.stages.training.stage_context import TrainingContext
from tests.stages.training.test_driver import LOOP
from tests.stages.training.toy import ToyTask
from tests.stages.training.watching.test_validation import ValidatedProgram

WATCH = WatchSettings(validate_every=10, validate_beside=True, prove_nodes=False)


class Run:
    def __init__(self) -> None:
        self.ended: Evaluated | None = None
        self.closed = False

    def result(self) -> Evaluated | None:
        return self.ended

    def close(self) -> None:
        self.closed = True


class World:
    """A training of toys, its clock, and the evaluations that began."""

    def __init__(self, folder: Path, *, has_room: bool = True) -> None:
        self.context = TrainingContext(
            folder, settings=TrainingExecution(watch=WATCH), retry=RetryPolicy(hang_after_s=60)
        )
        self.now, self.has_room = 0.0, has_room
        self.runs: list[Run] = []
        self.names: list[str] = []
        settings = worker_settings(ValidatedProgram, ToyTask(), LOOP, self.context)
        self.beside = ValidationsBeside(settings, self.context, self.start, lambda: self.now)

    def start(self, settings: WorkerSettings) -> SideRun | None:
        if not self.has_room:
            return None
        self.names.append(settings.beside)
        self.runs.append(Run())
        return self.runs[-1]


def test_one_runs_at_a_time_and_not_more_often_than_asked(tmp_path: Path) -> None:
    world = World(tmp_path)
    for step in (4, 9, 20):
        world.beside.committed(step)
    assert len(world.runs) == 1
    world.runs[0].ended = Evaluated(step=4, metrics={"validation/fit/loss": 2.0})
    world.beside.poll()
    assert world.runs[0].closed
    assert world.context.tracker.metrics == [(4, {"validation/fit/loss": 2.0})]
    world.beside.committed(13)
    assert len(world.runs) == 1
    world.beside.committed(14)
    assert world.names == ["validation-0", "validation-1"]


def test_a_failure_is_named_and_the_next_checkpoint_is_tried(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.beside.committed(5)
    world.runs[0].ended = Evaluated(error="OSError: shard 7 is gone")
    world.beside.poll()
    ((kind, fields),) = world.context.tracker.events
    assert kind == "validation_failed"
    assert fields["step"] == 5
    assert fields["message"].endswith("training goes on: OSError: shard 7 is gone")
    world.beside.committed(15)
    assert len(world.runs) == 2


def test_one_that_does_not_end_is_ended(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.beside.committed(5)
    world.now = 61.0
    world.beside.poll()
    assert world.runs[0].closed
    assert "did not end within 60 s" in world.context.tracker.events[0][1]["message"]


def test_where_no_worker_is_free_it_is_tried_later(tmp_path: Path) -> None:
    world = World(tmp_path, has_room=False)
    world.beside.committed(5)
    world.has_room = True
    world.beside.committed(6)
    assert world.runs == []  # asked once in 30 s
    world.now = 31.0
    world.beside.committed(7)
    assert len(world.runs) == 1
    assert world.context.tracker.events == []


def test_a_training_is_validated_beside_by_a_process_to_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: range(4))
    settings = TrainingExecution(watch=replace(WATCH, validate_every=1))
    context = TrainingContext(tmp_path, settings=settings, retry=RetryPolicy(checkpoint_every=2))
    result = train(ValidatedProgram, ToyTask(), LOOP, context)
    own = [metrics for _, metrics in context.tracker.metrics if "fit/loss" in metrics]
    assert not any("validation/fit/loss" in metrics for metrics in own)  # the training workers do not
    steps = {step: metrics for step, metrics in context.tracker.metrics if "validation/fit/loss" in metrics}
    assert max(steps) == LOOP.steps
    assert result.metrics["validation/fit/loss"] == steps[LOOP.steps]["validation/fit/loss"]


def test_a_validation_that_cannot_read_its_data_costs_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: range(4))
    settings = TrainingExecution(watch=replace(WATCH, validate_every=1))
    context = TrainingContext(tmp_path, settings=settings, retry=RetryPolicy(checkpoint_every=2))
    result = train(ValidatedProgram, ToyTask(poison_step=-2), LOOP, context)
    assert result.checkpoint.step == LOOP.steps
    messages = [fields["message"] for kind, fields in context.tracker.events if kind == "validation_failed"]
    assert messages
    assert all("worker 0: OSError: shard 7 is gone" in message for message in messages)


def test_no_process_starts_where_all_cores_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: range(1))
    context = TrainingContext(tmp_path)
    settings = worker_settings(ValidatedProgram, ToyTask(), LOOP, context)
    assert start_side_run(context)(settings) is None


def test_the_best_checkpoint_is_kept_by_the_training_workers_alone() -> None:
    with pytest.raises(ValueError, match="keep_best: fit/loss with validate_beside"):
        WatchSettings(validate_every=1, validate_beside=True, keep_best="fit/loss")
    with pytest.raises(ValueError, match="validate_beside: true without validate_every"):
        WatchSettings(validate_beside=True)
