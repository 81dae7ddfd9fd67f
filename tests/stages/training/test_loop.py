"""The training loop: continuation, independence of the number of workers, and what ends it."""

import itertools
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import nn

from models.optimization import learning_rate_factor
from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import NumericError
from orchestrator.stage import RetryPolicy
from orchestrator.store.store import open_store
from stages.training import loop as training_loop
from stages.training.checkpoints.progress import Progress, Skip, read_progress
from stages.training.checkpoints.reader import load_trained_weights
from stages.training.config import LoopConfig, OptimizerConfig
from stages.training.loop import DEFAULT_EXECUTION, WorkerRank, _facts, run_worker
from stages.training.program import MicroBatch, PassOutput, ProgramClass, order_of
from stages.training.spreads import Spread, spreads_of
from stages.training.watching.notices import LAYOUT, PREEMPTED, SPIKE, Notice
from tests.stages.training.toy import CPU, ToyProgram, ToyTask

LOOP = LoopConfig(
    steps=12, micro_batches_per_step=4, seed=5, skip_window=5, optimizer=OptimizerConfig(warmup_share=0.2)
)
EVERY_5 = RetryPolicy(checkpoint_every=5)


class Recorder:
    """Records the reports of the loop, and requests a stop after a step."""

    def __init__(self, stop_after: int = -1) -> None:
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.first = -1
        self.notices: list[Notice] = []
        self.told_to_end = False
        self._stop_after = stop_after

    def started(self, step: int) -> None:
        self.first = step

    def step(self, step: int, metrics: dict[str, float]) -> None:
        self.steps.append((step, metrics))

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    def preempted(self) -> bool:
        return self.told_to_end

    def look_for_preemption(self) -> None:
        return None

    def stop_requested(self) -> bool:
        return 0 <= self._stop_after <= len(self.steps)


def checkpoints(folder: Path) -> StoredCheckpoints:
    return StoredCheckpoints(
        store=open_store(folder / "store"),
        cache=folder / "cache",
        key=ArtifactKey("toy", "a" * 64),
        attempt=AttemptId(run_id="run", stage_id="stage", epoch=1, name="attempt"),
    )


def single_worker() -> WorkerRank:
    return WorkerRank(rank=0, world_size=1, device=torch.device("cpu"))


def trained(folder: Path) -> dict[str, torch.Tensor]:
    found = checkpoints(folder).latest()
    assert found is not None
    assert found.step == LOOP.steps
    program = ToyProgram(ToyTask())
    load_trained_weights(found.path, "model", program.model)
    return program.model.state_dict()


def test_a_stopped_run_continues_to_the_same_bits(tmp_path: Path) -> None:
    run_alone(ToyProgram, ToyTask(), LOOP, tmp_path / "whole")
    halves = tmp_path / "halves"
    first = Recorder(stop_after=7)
    run_alone(ToyProgram, ToyTask(), LOOP, halves, recorder=first)
    assert first.steps[-1][0] == 8  # the step during which the stop was seen is finished and kept
    second = Recorder()
    run_alone(ToyProgram, ToyTask(), LOOP, halves, recorder=second)
    assert second.first == 8
    found = checkpoints(halves).latest()
    assert found is not None
    assert spreads_of(found) == (Spread(from_step=0, workers=1, strategy="ddp"),)
    expected = trained(tmp_path / "whole")
    for name, tensor in trained(halves).items():
        assert torch.equal(tensor, expected[name]), name


def test_an_average_of_the_weights_is_saved_continued_and_the_result(tmp_path: Path) -> None:
    loop = replace(LOOP, average_decay=0.9)
    run_alone(ToyProgram, ToyTask(), loop, tmp_path / "whole")
    halves = tmp_path / "halves"
    run_alone(ToyProgram, ToyTask(), loop, halves, recorder=Recorder(stop_after=7))
    run_alone(ToyProgram, ToyTask(), loop, halves)
    results = []
    for folder in (tmp_path / "whole", halves):
        found = checkpoints(folder).latest()
        assert found is not None
        program = ToyProgram(ToyTask())
        load_trained_weights(found.path, "model", program.model)
        results.append(program.model.state_dict())
    plain = tmp_path / "plain"
    run_alone(ToyProgram, ToyTask(), LOOP, plain)
    last = trained(plain)
    for name, tensor in results[0].items():
        assert torch.equal(tensor, results[1][name]), name
        assert not torch.equal(tensor, last[name]), name


ODD = replace(LOOP, micro_batches_per_step=3)  # one worker gets two of them


def work_on_rank(rank: int, world_size: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    worker = WorkerRank(rank=rank, world_size=world_size, device=torch.device("cpu"))
    run_worker(
        ToyProgram,
        ToyTask(),
        ODD,
        retry=EVERY_5,
        checkpoints=checkpoints(Path(folder)),
        reporter=Recorder(),
        worker=worker,
    )
    dist.destroy_process_group()


def test_two_workers_train_what_one_trains(tmp_path: Path, free_port: int) -> None:
    run_alone(ToyProgram, ToyTask(), ODD, tmp_path / "one")
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work_on_rank, args=(rank, 2, free_port, str(tmp_path / "two"))) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    expected = trained(tmp_path / "one")
    for name, tensor in trained(tmp_path / "two").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)  # sums in another order, 12 Adam steps


def test_a_non_finite_loss_ends_the_attempt_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        NumericError, match=r"(?s)step 7, pass fit: loss nan, gradient norm nan at learning rates .*2 windows"
    ):
        run_alone(ToyProgram, ToyTask(poison_step=7), LOOP, tmp_path)
    found = checkpoints(tmp_path).latest()
    assert found is not None
    assert found.step == 5


def test_non_finite_data_are_skipped_and_the_skip_is_saved(tmp_path: Path) -> None:
    """Data steps 5 to 7 are skipped: the run goes back to the checkpoint of step 5 and continues with data step 8."""
    task, recorder = ToyTask(poison_data=(7,)), Recorder()
    run_alone(ToyProgram, task, LOOP, tmp_path, recorder=recorder)
    skipped = [metrics["data_steps_skipped"] for step, metrics in recorder.steps if step > 5]
    assert [step for step, _ in recorder.steps] == [1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 10, 11, 12]
    assert skipped == [0.0, 0.0, *[3.0] * 7]
    found = checkpoints(tmp_path).latest()
    assert found is not None
    progress = read_progress(found.path)
    assert progress == Progress(step=12, skips=(Skip(at=5, count=3),))
    assert [progress.data_step(step) for step in (4, 5, 11)] == [4, 8, 14]


def test_a_run_stopped_after_a_skip_continues_to_the_same_bits(tmp_path: Path) -> None:
    task = ToyTask(poison_data=(7,))
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run_alone(ToyProgram, task, LOOP, whole)
    run_alone(ToyProgram, task, LOOP, halves, recorder=Recorder(stop_after=9))
    second = Recorder()
    run_worker(
        ToyProgram, task, LOOP, retry=EVERY_5, checkpoints=checkpoints(halves), reporter=second, worker=single_worker()
    )
    assert second.first > 5
    expected = trained(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trained(halves).items())


def test_when_skipping_does_not_help_the_report_names_samples_and_rates(tmp_path: Path) -> None:
    task = ToyTask(poison_data=tuple(range(6, 40)))
    found = (
        r"(?s)at learning rates 0\.\d+.*\n  worker 0, micro-batch 2: loss nan, mean_x nan; samples sample-8-2-0, "
        r"sample-8-2-1, sample-8-2-2, sample-8-2-3\nData step 8; 2 windows"
    )
    with pytest.raises(NumericError, match=found):
        run_alone(ToyProgram, task, LOOP, tmp_path)


class SparseProgram(ToyProgram):
    """Its steps 3 and 11 hold nothing that is trained on."""

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        batch = super().micro_batch(step, index)
        return replace(batch, weight=0.0) if step in (3, 11) else batch


def test_a_step_without_trained_data_changes_nothing_and_reports_no_loss(tmp_path: Path) -> None:
    recorder = run_alone(SparseProgram, ToyTask(), LOOP, tmp_path)
    assert [step for step, metrics in recorder.steps if "fit/loss" not in metrics] == [4, 12]
    found = checkpoints(tmp_path).latest()
    assert found is not None
    assert found.step == LOOP.steps


class SeesAutocast(torch.autograd.Function):
    """Notes whether autocast is on while its gradient is computed."""

    seen: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        SeesAutocast.seen.append(torch.is_autocast_enabled("cpu"))
        return gradient


class AutocastPass(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator, step: int) -> PassOutput:
        assert torch.is_autocast_enabled("cpu")
        return PassOutput(loss_sum=SeesAutocast.apply(self.model(data[0])).float().square().sum())


class AutocastProgram(ToyProgram):
    def __init__(self, task: ToyTask, device: torch.device = CPU) -> None:
        super().__init__(task, device)
        self.passes = (replace(self.passes[0], module=AutocastPass(self.model)),)


def test_gradients_are_computed_outside_autocast(tmp_path: Path) -> None:
    """Inside it, the gradients of weights that are meant to stay in fp32 are rounded to bf16."""
    SeesAutocast.seen.clear()
    run_alone(AutocastProgram, ToyTask(), replace(LOOP, steps=1, precision="bf16"), tmp_path)
    assert SeesAutocast.seen == [False] * LOOP.micro_batches_per_step


class SpikingProgram(ToyProgram):
    """Targets of data step 27 that no other step has."""

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        batch = super().micro_batch(step, index)
        x, y = batch.data
        return replace(batch, data=(x, y + 500.0)) if (step, index) == (27, 2) else batch


SPIKING = replace(LOOP, steps=32, optimizer=OptimizerConfig(warmup_share=0.0, schedule="constant"))


def test_a_finite_spike_is_named_and_trained_on_unless_the_config_asks_to_skip_it(tmp_path: Path) -> None:
    named = run_alone(SpikingProgram, ToyTask(), SPIKING, tmp_path / "named")
    assert [step for step, _ in named.steps] == list(range(1, 33))
    [spike] = [notice.fields for notice in named.notices if notice.kind == SPIKE]
    assert (spike["step"], spike["data_step"]) == (27, 27)
    assert any("sample-27-2-0" in found["samples"] for found in spike["samples"])

    skipped = run_alone(SpikingProgram, ToyTask(), replace(SPIKING, skip_spikes_z=8.0), tmp_path / "skipped")
    assert [step for step, _ in skipped.steps][25:] == [26, 27, 26, 27, 28, 29, 30, 31, 32]
    found = checkpoints(tmp_path / "skipped").latest()
    assert found is not None
    assert read_progress(found.path) == Progress(step=32, skips=(Skip(at=25, count=3),))


def test_a_spike_is_trained_on_where_no_skip_is_left(tmp_path: Path) -> None:
    loop = replace(SPIKING, steps=28, skip_spikes_z=8.0, max_skips=0)
    assert [step for step, _ in run_alone(SpikingProgram, ToyTask(), loop, tmp_path).steps] == list(range(1, 29))


def test_workers_compare_the_samples_of_the_micro_batch_that_comes_first() -> None:
    program, first = ToyProgram(ToyTask()), ToyProgram(ToyTask()).micro_batch(5, 0)
    progress = Progress(step=3, skips=(Skip(at=1, count=2),))
    facts = _facts(program, LOOP, None, progress)
    assert facts["order"] == [order_of(program), first.seed, "4", *first.samples]
    assert (facts["step"], facts["skips"], facts["checkpoint"]) == (3, [{"at": 1, "count": 2}], "")
    assert _facts(program, LOOP, None, Progress(step=LOOP.steps))["order"] == [order_of(program)]


class DivergingProgram(ToyProgram):
    """Each step from 22 on is worse than all before."""

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        batch = super().micro_batch(step, index)
        x, y = batch.data
        return replace(batch, data=(x, y + 10.0 ** (step - 20))) if step >= 22 else batch


def test_of_a_training_that_diverges_not_every_step_is_described(tmp_path: Path) -> None:
    recorder = run_alone(DivergingProgram, ToyTask(), SPIKING, tmp_path)
    assert [notice.fields["step"] for notice in recorder.notices if notice.kind == SPIKE] == [22]


def test_a_training_stopped_before_a_spike_skips_the_same_data(tmp_path: Path) -> None:
    """What is usual is saved with the checkpoints, so the z-scores after a stop are those without one."""
    loop = replace(SPIKING, skip_spikes_z=8.0)
    run_alone(SpikingProgram, ToyTask(), loop, tmp_path / "whole")
    first = Recorder(stop_after=22)
    run_alone(SpikingProgram, ToyTask(), loop, tmp_path / "halves", recorder=first)
    assert first.steps[-1][0] == 23
    run_alone(SpikingProgram, ToyTask(), loop, tmp_path / "halves")
    whole = saved_weights(tmp_path / "whole", ToyProgram(ToyTask()))
    halves = saved_weights(tmp_path / "halves", ToyProgram(ToyTask()))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in halves.items())


def test_a_worker_that_is_told_to_end_leaves_a_checkpoint_of_the_step(tmp_path: Path) -> None:
    class Told(Recorder):
        def preempted(self) -> bool:
            return len(self.steps) >= 7

    recorder = Told()
    run_alone(ToyProgram, ToyTask(), LOOP, tmp_path, recorder=recorder)
    found = checkpoints(tmp_path).latest()
    assert found is not None
    assert found.step == recorder.steps[-1][0] == 8  # the step that was under way is finished and kept
    assert [notice.fields["step"] for notice in recorder.notices if notice.kind == PREEMPTED] == [8]


def test_every_worker_needs_a_micro_batch(tmp_path: Path) -> None:
    worker = WorkerRank(rank=0, world_size=5, device=torch.device("cpu"))
    with pytest.raises(
        ValueError, match=r"micro_batches_per_step: 4 micro-batches leave some of 5 workers without work"
    ):
        run_worker(
            ToyProgram,
            ToyTask(),
            LOOP,
            retry=EVERY_5,
            checkpoints=checkpoints(tmp_path),
            reporter=Recorder(),
            worker=worker,
        )


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run_alone(ToyProgram, ToyTask(), LOOP, tmp_path)
    kept = sorted(int(path.parent.name) for path in tmp_path.rglob("checkpoints/*/COMMIT"))
    assert kept[-DEFAULT_EXECUTION.keep_checkpoints :] == [10, 12]


def test_metrics_are_means_over_the_whole_step(tmp_path: Path) -> None:
    recorder = Recorder()
    run_alone(ToyProgram, ToyTask(), LOOP, tmp_path, recorder=recorder)
    micro_batches = [ToyProgram(ToyTask()).micro_batch(0, index) for index in range(LOOP.micro_batches_per_step)]
    rows = torch.cat([micro_batch.data[0] for micro_batch in micro_batches])
    assert recorder.steps[0][1]["fit/mean_x"] == pytest.approx(float(rows.mean()), abs=1e-6)


def run_alone(
    program: ProgramClass[ToyTask],
    task: ToyTask,
    loop: LoopConfig,
    folder: Path,
    *,
    retry: RetryPolicy = EVERY_5,
    recorder: Recorder | None = None,
) -> Recorder:
    """Train on one worker, to the end unless the recorder stops it."""
    reporter = recorder or Recorder()
    run_worker(
        program,
        task,
        loop,
        retry=retry,
        checkpoints=checkpoints(folder),
        reporter=reporter,
        worker=single_worker(),
    )
    return reporter


def saved_weights(folder: Path, program: ToyProgram) -> dict[str, torch.Tensor]:
    found = checkpoints(folder).latest()
    assert found is not None
    load_trained_weights(found.path, "model", program.model)
    return program.model.state_dict()


@pytest.mark.parametrize("clip_norm", [1.0, 0.0])
def test_a_step_with_a_huge_loss_moves_the_weights_by_the_clipped_gradient(clip_norm: float, tmp_path: Path) -> None:
    """With a large epsilon, the first step of Adam is nearly proportional to a small gradient."""
    optimizer = OptimizerConfig(name="adam", eps=1.0, clip_norm=clip_norm, schedule="constant", warmup_share=0.0)
    loop = LoopConfig(steps=1, micro_batches_per_step=2, seed=5, optimizer=optimizer)
    task = ToyTask(loss_scale=1e4)
    run_alone(ToyProgram, task, loop, tmp_path)

    program = ToyProgram(task)
    batches = [program.micro_batch(0, index) for index in range(2)]
    for batch in batches:
        output = program.passes[0].module(batch.data, torch.Generator().manual_seed(batch.seed), 0)
        (output.loss_sum / sum(batch.weight for batch in batches)).backward()
    parameters = dict(program.model.named_parameters())
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    norm = torch.sqrt(sum((gradient.square().sum() for gradient in gradients.values()), torch.zeros(())))
    assert norm > 1e3
    scale = clip_norm / norm if clip_norm else 1.0
    after = saved_weights(tmp_path, ToyProgram(task))
    for name, parameter in parameters.items():
        clipped = gradients[name] * scale
        torch.testing.assert_close(after[name], parameter.detach() - 1e-2 * clipped / (clipped.abs() + 1.0))


def test_a_run_in_bf16_is_like_one_in_fp32_but_not_equal(tmp_path: Path) -> None:
    exact = run_alone(ToyProgram, ToyTask(), LOOP, tmp_path / "fp32")
    rounded = run_alone(ToyProgram, ToyTask(), replace(LOOP, precision="bf16"), tmp_path / "bf16")
    losses = [[metrics["fit/loss"] for _, metrics in recorder.steps] for recorder in (exact, rounded)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=3e-2)  # bf16 keeps 8 bits


class PartlyUsedProgram(ToyProgram):
    """Trains a parameter that no micro-batch uses."""

    def __init__(self, task: ToyTask, device: torch.device = CPU) -> None:
        super().__init__(task, device)
        self.model.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
        self.passes = (replace(self.passes[0], groups=[{"params": list(self.model.parameters()), "lr": 1e-2}]),)


def test_a_parameter_that_no_micro_batch_uses_decays_as_on_any_number_of_workers(tmp_path: Path) -> None:
    optimizer = OptimizerConfig(weight_decay=0.5, schedule="constant", warmup_share=0.0)
    run_alone(PartlyUsedProgram, ToyTask(), replace(LOOP, optimizer=optimizer), tmp_path)
    unused = saved_weights(tmp_path, PartlyUsedProgram(ToyTask()))["unused"]
    torch.testing.assert_close(unused, torch.full((2,), (1 - 1e-2 * 0.5) ** LOOP.steps))


class SlowlyRetracting(StoredCheckpoints):
    def retract_after(self, step: int) -> None:
        time.sleep(1.0)
        super().retract_after(step)


def meet_poison(rank: int, world_size: int, port: int, folder: str) -> None:
    """Train on data that contain a NaN; writes the steps that were reported."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    found = checkpoints(Path(folder))
    recorder = Recorder()
    run_worker(
        ToyProgram,
        ToyTask(poison_data=(7,)),
        ODD,
        retry=RetryPolicy(checkpoint_every=1),
        checkpoints=SlowlyRetracting(store=found.store, cache=found.cache, key=found.key, attempt=found.attempt),
        reporter=recorder,
        worker=WorkerRank(rank=rank, world_size=world_size, device=CPU),
    )
    Path(folder, f"steps-{rank}").write_text(str([step for step, _ in recorder.steps]))
    dist.destroy_process_group()


def test_after_a_non_finite_loss_all_workers_go_back_to_the_same_checkpoint(tmp_path: Path, free_port: int) -> None:
    """One of them retracts later checkpoints slowly; the other waits until it has."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=meet_poison, args=(rank, 2, free_port, str(tmp_path))) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    expected = str([1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 10, 11, 12])
    assert [(tmp_path / f"steps-{rank}").read_text() for rank in range(2)] == [expected, expected]


def test_the_speed_is_that_of_the_steps_of_this_attempt(tmp_path: Path) -> None:
    task, began = ToyTask(pause_s=0.01), time.monotonic()
    whole = run_alone(ToyProgram, task, replace(LOOP, steps=8), tmp_path)
    assert (
        8 / (time.monotonic() - began) <= whole.steps[-1][1]["steps_per_s"] <= 1 / (LOOP.micro_batches_per_step * 0.01)
    )
    rest = run_alone(ToyProgram, task, LOOP, tmp_path)
    assert rest.first == 8
    assert 0 < rest.steps[-1][1]["steps_per_s"] <= 1 / (LOOP.micro_batches_per_step * 0.01)


def test_the_figures_of_a_step_follow_from_its_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of the loop that goes on by a second each time it is read."""
    monkeypatch.setattr(training_loop, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    recorder = run_alone(ToyProgram, ToyTask(), replace(LOOP, steps=3), tmp_path, retry=RetryPolicy(checkpoint_every=2))
    names = ("data_wait_s", "steps_per_s", "weight_per_s", "checkpoint_stall_s", "data_steps_skipped")
    assert [tuple(metrics.get(name) for name in names) for _, metrics in recorder.steps] == [
        (1, 1 / 3, 18 / 3, None, 0.0),  # 18 samples; waiting, working and counting take a second each
        (1, 2 / 7, 18 / 3, 1, 0.0),
        (1, 3 / 13, 18 / 3, 1, 0.0),
    ]
    assert all("step_weight" not in metrics for _, metrics in recorder.steps)


class SteepProgram(ToyProgram):
    """Its loss is finite, and its gradient is not: that of a root at 0."""

    def __init__(self, task: ToyTask, device: torch.device = CPU) -> None:
        super().__init__(task, device)
        whole = self.passes[0].module.forward

        def steep(*arguments: Any) -> PassOutput:
            output = whole(*arguments)
            return replace(output, loss_sum=output.loss_sum + (self.model[0].weight.sum() * 0).sqrt())

        self.passes[0].module.forward = steep  # type: ignore[method-assign]  # only its gradient differs


def test_a_gradient_that_is_not_finite_ends_the_step_though_its_loss_is(tmp_path: Path) -> None:
    with pytest.raises(NumericError, match="loss of every micro-batch is finite, only the gradient is not"):
        run_alone(SteepProgram, ToyTask(), replace(LOOP, max_skips=0), tmp_path)
    assert checkpoints(tmp_path).latest() is None


def test_torch_is_told_to_compute_the_same_each_time_and_only_warns_where_it_cannot(tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(False)
    run_alone(ToyProgram, ToyTask(), replace(LOOP, steps=1), tmp_path)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_the_average_follows_the_weights_from_the_first_step(tmp_path: Path) -> None:
    """With a constant gradient sign the weights move one way, and their average lies between start and end."""
    task = ToyTask()
    run_alone(ToyProgram, task, replace(LOOP, average_decay=0.5), tmp_path / "average")
    run_alone(ToyProgram, task, LOOP, tmp_path / "plain")
    start = ToyProgram(task).model.state_dict()
    average, end = saved_weights(tmp_path / "average", ToyProgram(task)), trained(tmp_path / "plain")
    moved = [torch.norm(weights["0.weight"] - start["0.weight"]) for weights in (average, end)]
    assert 0.5 * moved[1] < moved[0] < moved[1]  # at a decay of 0.5 it lags by about a step


def test_the_learning_rate_of_each_step_follows_the_schedule(tmp_path: Path) -> None:
    recorder = run_alone(ToyProgram, ToyTask(), LOOP, tmp_path)
    optimizer = LOOP.optimizer
    expected = [
        1e-2
        * learning_rate_factor(
            step,
            steps=LOOP.steps,
            schedule=optimizer.schedule,
            warmup_share=optimizer.warmup_share,
            final_share=optimizer.final_share,
        )
        for step in range(LOOP.steps)
    ]
    assert [metrics["fit/lr"] for _, metrics in recorder.steps] == pytest.approx(expected)
    assert len(set(expected)) > LOOP.steps / 2


def test_when_no_skip_is_left_the_checkpoints_before_the_loss_are_kept(tmp_path: Path) -> None:
    with pytest.raises(NumericError, match="2 windows"):
        run_alone(ToyProgram, ToyTask(poison_step=7), LOOP, tmp_path, retry=RetryPolicy(checkpoint_every=1))
    found = checkpoints(tmp_path).latest()
    assert found is not None
    assert found.step == 7


def test_the_stall_of_a_checkpoint_is_a_part_of_the_time(tmp_path: Path) -> None:
    began = time.monotonic()
    recorder = run_alone(ToyProgram, ToyTask(), LOOP, tmp_path)
    stalls = [metrics["checkpoint_stall_s"] for _, metrics in recorder.steps if "checkpoint_stall_s" in metrics]
    assert len(stalls) == 3  # steps 5, 10 and 12
    assert all(stall >= 0 for stall in stalls)
    assert sum(stalls) <= time.monotonic() - began


def test_what_the_speed_of_steps_was_measured_on_is_told_once(tmp_path: Path) -> None:
    reporter = Recorder()
    run_alone(ToyProgram, ToyTask(), LOOP, tmp_path, recorder=reporter)
    (layout,) = [notice for notice in reporter.notices if notice.kind == LAYOUT]
    assert layout.fields == {"workers": 1, "strategy": "ddp", "device": "cpu", "peak_tflops": 0.0}
