"""Single steps of the training loop: passes, micro-steps, moments of saving, and what a step reports."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from orchestrator.artifact import JSON, FileEntry
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.stage import RetryPolicy
from stages.training.checkpoints.progress import Progress
from stages.training.loop import StepRequests, _Trainer, run_worker
from stages.training.program import MicroBatch, Pass, PassOutput
from stages.training.watching.notices import PREEMPTED
from tests.stages.training.test_loop import LOOP, Recorder, checkpoints, run_alone, single_worker
from tests.stages.training.toy import CPU, ToyProgram, ToyTask


class DrawingProgram(ToyProgram):
    """Draws its first weights from torch's own generator."""

    drawn: ClassVar[list[float]] = []

    def __init__(self, task: ToyTask, device: torch.device = CPU) -> None:
        self.drawn.append(float(torch.rand(())))
        super().__init__(task, device)


def test_the_first_weights_follow_from_the_seed_of_the_config(tmp_path: Path) -> None:
    DrawingProgram.drawn.clear()
    for number, seed in enumerate((5, 5, 6)):
        torch.manual_seed(number)  # whatever ran before in this process
        run_alone(DrawingProgram, ToyTask(), replace(LOOP, steps=1, seed=seed), tmp_path / str(number))
    first, again, other = DrawingProgram.drawn
    assert first == again
    assert first != other


class TwoPassProgram(ToyProgram):
    """A second pass over the same model, from step 2 on."""

    def __init__(self, task: ToyTask, device: torch.device = CPU) -> None:
        super().__init__(task, device)
        (fit,) = self.passes
        self.passes = (fit, replace(fit, name="late", first_step=2))


def test_a_pass_begins_at_its_first_step(tmp_path: Path) -> None:
    recorder = run_alone(TwoPassProgram, ToyTask(), replace(LOOP, steps=4), tmp_path)
    assert ["late/loss" in metrics for _, metrics in recorder.steps] == [False, False, True, True]
    assert all("fit/loss" in metrics for _, metrics in recorder.steps)


@dataclass
class RecordingStrategy:
    """Runs nothing; records which micro-steps it is told to make."""

    equal_micro_steps: bool
    made: list[tuple[int, float, bool]] = field(default_factory=list)  # seed of the micro-batch, scale, is the last

    def begin_step(self, training_pass: Pass, factor: float) -> None: ...

    def micro_step(
        self, training_pass: Pass, micro_batch: MicroBatch, *, step: int, scale: float, is_last: bool
    ) -> PassOutput:
        self.made.append((micro_batch.seed, scale, is_last))
        return PassOutput(loss_sum=torch.tensor(float(micro_batch.weight)))

    def clip(self, training_pass: Pass) -> float:
        return 1.5

    def learning_rates(self, training_pass: Pass) -> list[float]:
        return [0.25, 0.5]

    def apply(self, training_pass: Pass) -> None: ...


def trainer_of(strategy: RecordingStrategy, num_micro_batches: int) -> _Trainer:
    watch = SimpleNamespace(check_spike=lambda *_arguments, **_keywords: None)
    loop = replace(LOOP, micro_batches_per_step=num_micro_batches)
    parts: Any = (ToyProgram(ToyTask()), loop, strategy, single_worker(), watch, Progress())
    return _Trainer(*parts)


@pytest.mark.parametrize("is_equal", [True, False])
def test_a_worker_with_fewer_micro_batches_repeats_its_first_where_all_must_make_as_many(is_equal: bool) -> None:
    """Its repetition counts nothing: neither in the gradient nor in the means."""
    strategy = RecordingStrategy(equal_micro_steps=is_equal)
    trainer = trainer_of(strategy, 4)
    batches = [MicroBatch(data=None, weight=weight, seed=seed) for seed, weight in ((7, 2.0), (8, 3.0), (9, 5.0))]
    metrics = trainer._run_pass(trainer.program.passes[0], 0, batches, weight=10.0, factor=1.0)
    real = [(7, 0.1, False), (8, 0.1, False)]
    assert strategy.made == [*real, *([(9, 0.1, False), (7, 0.0, True)] if is_equal else [(9, 0.1, True)])]
    assert metrics == {"fit/loss": 1.0, "fit/grad_norm": 1.5, "fit/lr": 0.25}


@pytest.mark.parametrize(("micro_batches", "workers", "expected"), [(4, 2, 2), (5, 2, 3), (3, 4, 1), (8, 3, 3)])
def test_workers_that_exchange_data_make_as_many_micro_steps_as_the_one_with_the_most(
    micro_batches: int, workers: int, expected: int
) -> None:
    trainer = trainer_of(RecordingStrategy(equal_micro_steps=True), micro_batches)
    trainer.worker = replace(trainer.worker, world_size=workers)
    assert trainer._num_micro_steps([]) == expected


class SlowlyConcluding(StoredCheckpoints):
    """Each checkpoint takes longer than a step."""

    def conclude(self, step: int, draft: str, files: Sequence[FileEntry], meta: Mapping[str, JSON]) -> bool:
        time.sleep(0.3)
        return super().conclude(step, draft, files, meta)


def test_a_checkpoint_that_is_being_written_when_a_loss_is_not_finite_is_retracted_too(tmp_path: Path) -> None:
    found, recorder = checkpoints(tmp_path), Recorder()
    run_worker(
        ToyProgram,
        ToyTask(poison_data=(7,)),
        LOOP,
        retry=RetryPolicy(checkpoint_every=1),
        checkpoints=SlowlyConcluding(store=found.store, cache=found.cache, key=found.key, attempt=found.attempt),
        reporter=recorder,
        worker=single_worker(),
    )
    assert [step for step, _ in recorder.steps] == [1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 10, 11, 12]


@pytest.mark.parametrize("after", [10, 11])
def test_a_worker_that_is_told_to_end_during_the_last_step_has_left_nothing_undone(after: int, tmp_path: Path) -> None:
    class Told(Recorder):
        def preempted(self) -> bool:
            return len(self.steps) >= after

    recorder = Told()
    run_alone(ToyProgram, ToyTask(), LOOP, tmp_path, recorder=recorder)
    notices = [notice.fields["step"] for notice in recorder.notices if notice.kind == PREEMPTED]
    assert notices == ([11] if after == 10 else [])
    assert recorder.steps[-1][0] == (11 if after == 10 else LOOP.steps)


def test_the_interval_of_checkpoints_is_reported_with_what_each_of_them_took(tmp_path: Path) -> None:
    recorder = run_alone(ToyProgram, ToyTask(pause_s=0.02), LOOP, tmp_path, retry=RetryPolicy(checkpoint_every=2))
    written = [metrics for _, metrics in recorder.steps if "checkpoint_write_s" in metrics]
    assert written
    assert all(metrics["checkpoint_interval_s"] > 0 for metrics in written)
    assert not any("checkpoint_interval_s" in metrics for _, metrics in recorder.steps if metrics not in written)


class EmptyProgram(ToyProgram):
    """Its step 1 holds nothing that is trained on."""

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        batch = super().micro_batch(step, index)
        return replace(batch, weight=0.0) if step == 1 else batch


def test_a_step_without_trained_data_has_no_speed(tmp_path: Path) -> None:
    recorder = run_alone(EmptyProgram, ToyTask(), replace(LOOP, steps=3), tmp_path)
    assert [metrics["weight_per_s"] > 0 for _, metrics in recorder.steps] == [True, False, True]
    assert recorder.steps[1][1]["weight_per_s"] == 0.0


def test_what_one_worker_requests_all_agree_on_and_nothing_else(tmp_path: Path) -> None:
    strategy = RecordingStrategy(equal_micro_steps=False)
    trainer = trainer_of(strategy, 1)
    batches = [MicroBatch(data=None, weight=0.0, seed=1, tokens=8.0, padding=2.0)]
    for requests in (StepRequests(), StepRequests(stop=True), StepRequests(save=True, look=True, leave=True)):
        metrics, agreed, amounts = trainer.step(0, batches, requests)
        assert (metrics, agreed, amounts.tokens, amounts.padding) == ({}, requests, 8.0, 2.0)
    assert strategy.made == []  # nothing to train on


def test_memory_is_not_filled_before_it_is_written(tmp_path: Path) -> None:
    """Deterministic algorithms would write every new tensor twice."""
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]  # a property of the module
    run_alone(ToyProgram, ToyTask(), replace(LOOP, steps=1), tmp_path)
    assert torch.utils.deterministic.fill_uninitialized_memory is False  # type: ignore[attr-defined]
