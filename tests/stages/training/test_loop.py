"""The training loop: continuation, independence of the number of workers, and what ends it."""

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.errors import NumericError
from orchestrator.stage import RetryPolicy
from orchestrator.store.store import open_store
from stages.training.checkpoint_files import Progress, Skip, load_result, load_state
from stages.training.config import LoopConfig, OptimizerConfig, in_smaller_parts
from stages.training.loop import Place, run_worker
from stages.training.program import micro_seed
from tests.stages.training.toy import ToyProgram, ToyTask

LOOP = LoopConfig(steps=12, micros_per_step=4, seed=5, skip_window=5, optimizer=OptimizerConfig(warmup_share=0.2))
EVERY_5 = RetryPolicy(checkpoint_every=5)


class Recorder:
    """Keeps what the loop reports, and asks for a stop after a step."""

    def __init__(self, stop_after: int = -1) -> None:
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.first = -1
        self._stop_after = stop_after

    def started(self, step: int) -> None:
        self.first = step

    def step(self, step: int, metrics: dict[str, float]) -> None:
        self.steps.append((step, metrics))

    def stop_requested(self) -> bool:
        return 0 <= self._stop_after <= len(self.steps)


def checkpoints(folder: Path) -> StoredCheckpoints:
    return StoredCheckpoints(
        store=open_store(folder / "store"),
        cache=folder / "cache",
        stage_kind="toy",
        fingerprint="a" * 64,
        attempt_id="attempt",
    )


def alone() -> Place:
    return Place(rank=0, world=1, device=torch.device("cpu"))


def trained(folder: Path) -> dict[str, torch.Tensor]:
    found = checkpoints(folder).latest()
    assert found is not None
    assert found.step == LOOP.steps
    program = ToyProgram(ToyTask())
    optimizer = torch.optim.AdamW(program.model.parameters())
    load_state(found.path, weights=program.weights, optimizers={"fit": optimizer})
    return program.model.state_dict()


def test_a_stopped_run_continues_to_the_same_bits(tmp_path: Path) -> None:
    run_worker(
        ToyProgram,
        ToyTask(),
        LOOP,
        retry=EVERY_5,
        checkpoints=checkpoints(tmp_path / "whole"),
        reporter=Recorder(),
        place=alone(),
    )
    halves = tmp_path / "halves"
    first = Recorder(stop_after=7)
    run_worker(
        ToyProgram, ToyTask(), LOOP, retry=EVERY_5, checkpoints=checkpoints(halves), reporter=first, place=alone()
    )
    assert first.steps[-1][0] == 8  # the step during which the stop was seen is finished and kept
    second = Recorder()
    run_worker(
        ToyProgram, ToyTask(), LOOP, retry=EVERY_5, checkpoints=checkpoints(halves), reporter=second, place=alone()
    )
    assert second.first == 8
    expected = trained(tmp_path / "whole")
    for name, tensor in trained(halves).items():
        assert torch.equal(tensor, expected[name]), name


def test_an_average_of_the_weights_is_kept_continued_and_the_result(tmp_path: Path) -> None:
    loop = replace(LOOP, average_decay=0.9)
    run_worker(
        ToyProgram,
        ToyTask(),
        loop,
        retry=EVERY_5,
        checkpoints=checkpoints(tmp_path / "whole"),
        reporter=Recorder(),
        place=alone(),
    )
    halves = tmp_path / "halves"
    run_worker(
        ToyProgram,
        ToyTask(),
        loop,
        retry=EVERY_5,
        checkpoints=checkpoints(halves),
        reporter=Recorder(stop_after=7),
        place=alone(),
    )
    run_worker(
        ToyProgram, ToyTask(), loop, retry=EVERY_5, checkpoints=checkpoints(halves), reporter=Recorder(), place=alone()
    )
    results = []
    for folder in (tmp_path / "whole", halves):
        found = checkpoints(folder).latest()
        assert found is not None
        program = ToyProgram(ToyTask())
        load_result(found.path, "model", program.model)
        results.append(program.model.state_dict())
    plain = tmp_path / "plain"
    run_worker(
        ToyProgram, ToyTask(), LOOP, retry=EVERY_5, checkpoints=checkpoints(plain), reporter=Recorder(), place=alone()
    )
    last = trained(plain)
    for name, tensor in results[0].items():
        assert torch.equal(tensor, results[1][name]), name
        assert not torch.equal(tensor, last[name]), name


ODD = replace(LOOP, micros_per_step=3)  # one worker gets two of them


def work_on_rank(rank: int, world: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    place = Place(rank=rank, world=world, device=torch.device("cpu"))
    run_worker(
        ToyProgram,
        ToyTask(),
        ODD,
        retry=EVERY_5,
        checkpoints=checkpoints(Path(folder)),
        reporter=Recorder(),
        place=place,
    )
    dist.destroy_process_group()


def test_two_workers_train_what_one_trains(tmp_path: Path, free_port: int) -> None:
    run_worker(
        ToyProgram,
        ToyTask(),
        ODD,
        retry=EVERY_5,
        checkpoints=checkpoints(tmp_path / "one"),
        reporter=Recorder(),
        place=alone(),
    )
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


def test_a_loss_that_is_no_number_ends_the_attempt_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        NumericError, match=r"step 7, pass fit: loss nan, gradient norm nan at learning rates .*2 windows"
    ):
        run_worker(
            ToyProgram,
            ToyTask(poison_step=7),
            LOOP,
            retry=EVERY_5,
            checkpoints=checkpoints(tmp_path),
            reporter=Recorder(),
            place=alone(),
        )
    found = checkpoints(tmp_path).latest()
    assert found is not None
    assert found.step == 5


def test_poisoned_data_are_passed_over_and_the_skip_is_remembered(tmp_path: Path) -> None:
    """Steps of data 5 to 7 are left out: the run goes back to the checkpoint of step 5 and on with data 8."""
    task, recorder = ToyTask(poison_data=(7,)), Recorder()
    run_worker(
        ToyProgram, task, LOOP, retry=EVERY_5, checkpoints=checkpoints(tmp_path), reporter=recorder, place=alone()
    )
    skipped = [metrics["data_steps_skipped"] for step, metrics in recorder.steps if step > 5]
    assert [step for step, _ in recorder.steps] == [1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 10, 11, 12]
    assert skipped == [0.0, 0.0, *[3.0] * 7]
    found = checkpoints(tmp_path).latest()
    assert found is not None
    program = ToyProgram(ToyTask())
    progress = load_state(
        found.path, weights=program.weights, optimizers={"fit": torch.optim.AdamW(program.model.parameters())}
    )
    assert progress == Progress(step=12, skips=(Skip(at=5, count=3),))
    assert [progress.data_step(step) for step in (4, 5, 11)] == [4, 8, 14]


def test_a_run_stopped_after_a_skip_continues_to_the_same_bits(tmp_path: Path) -> None:
    task = ToyTask(poison_data=(7,))
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run_worker(
        ToyProgram, task, LOOP, retry=EVERY_5, checkpoints=checkpoints(whole), reporter=Recorder(), place=alone()
    )
    run_worker(
        ToyProgram,
        task,
        LOOP,
        retry=EVERY_5,
        checkpoints=checkpoints(halves),
        reporter=Recorder(stop_after=9),
        place=alone(),
    )
    second = Recorder()
    run_worker(ToyProgram, task, LOOP, retry=EVERY_5, checkpoints=checkpoints(halves), reporter=second, place=alone())
    assert second.first > 5
    expected = trained(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trained(halves).items())


def test_a_step_of_data_leads_back_to_the_step_that_consumed_it() -> None:
    progress = Progress(step=30, skips=(Skip(at=5, count=3), Skip(at=5, count=2), Skip(at=9, count=1)))
    consumed = {progress.data_step(step): step for step in range(30)}
    assert len(consumed) == 30
    assert {data_step: progress.step_of(data_step) for data_step in range(36)} == {
        data_step: consumed.get(data_step) for data_step in range(36)
    }


def test_when_skipping_does_not_help_the_report_names_samples_and_rates(tmp_path: Path) -> None:
    task = ToyTask(poison_data=tuple(range(6, 40)))
    with pytest.raises(NumericError, match=r"at learning rates 0\.\d+.*Data: step 8, samples sample-8-0-0.*2 windows"):
        run_worker(
            ToyProgram, task, LOOP, retry=EVERY_5, checkpoints=checkpoints(tmp_path), reporter=Recorder(), place=alone()
        )


@pytest.mark.parametrize(("size", "halvings", "parts"), [(8, 0, 1), (8, 1, 2), (8, 5, 8), (6, 3, 2), (1, 2, 1)])
def test_out_of_memory_makes_micro_batches_smaller_and_more(size: int, halvings: int, parts: int) -> None:
    loop, found = in_smaller_parts(LOOP, size, halvings)
    assert found == parts
    assert loop.micros_per_step == LOOP.micros_per_step * parts


def test_every_worker_needs_a_micro_batch(tmp_path: Path) -> None:
    place = Place(rank=0, world=5, device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"micros_per_step: 4 micro-batches leave some of 5 workers without work"):
        run_worker(
            ToyProgram,
            ToyTask(),
            LOOP,
            retry=EVERY_5,
            checkpoints=checkpoints(tmp_path),
            reporter=Recorder(),
            place=place,
        )


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run_worker(
        ToyProgram,
        ToyTask(),
        LOOP,
        retry=EVERY_5,
        checkpoints=checkpoints(tmp_path),
        reporter=Recorder(),
        place=alone(),
    )
    kept = sorted(int(path.parent.name) for path in tmp_path.rglob("checkpoints/*/COMMIT"))
    assert kept[-LOOP.keep_checkpoints :] == [10, 12]


def test_every_place_in_the_data_has_its_own_seed() -> None:
    seeds = {micro_seed(seed, step, index) for seed in range(5) for step in range(50) for index in range(8)}
    assert len(seeds) == 5 * 50 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_metrics_are_means_over_the_whole_step(tmp_path: Path) -> None:
    recorder = Recorder()
    run_worker(
        ToyProgram, ToyTask(), LOOP, retry=EVERY_5, checkpoints=checkpoints(tmp_path), reporter=recorder, place=alone()
    )
    micros = [ToyProgram(ToyTask()).micro(0, index) for index in range(LOOP.micros_per_step)]
    rows = torch.cat([micro.data[0] for micro in micros])
    assert recorder.steps[0][1]["fit/mean_x"] == pytest.approx(float(rows.mean()), abs=1e-6)
