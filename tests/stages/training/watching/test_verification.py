"""Steps that are computed twice: which ones, what is compared, and that nothing of it is left behind."""

from pathlib import Path

import torch
from torch import nn

from stages.training.agreement import WorkerRank
from stages.training.config import TrainingExecution, WatchSettings
from stages.training.loop import run_worker
from stages.training.program import PassOutput
from stages.training.watching.verification import checksum, is_verified, unchanged_buffers
from tests.stages.training.test_loop import EVERY_5, LOOP, Recorder, checkpoints, trained
from tests.stages.training.toy import CPU, ToyProgram, ToyTask


def test_about_one_step_in_so_many_is_verified_and_all_workers_choose_alike() -> None:
    chosen = [step for step in range(10_000) if is_verified(step, every=100, seed=3)]
    assert 60 < len(chosen) < 140
    assert chosen == [step for step in range(10_000) if is_verified(step, every=100, seed=3)]
    assert chosen != [step for step in range(10_000) if is_verified(step, every=100, seed=4)]
    assert not any(is_verified(step, every=0, seed=3) for step in range(100))


def test_any_bit_changes_the_checksum() -> None:
    values = torch.linspace(-1, 1, 1000)
    flipped = values.clone()
    flipped.view(torch.int32)[357] ^= 1
    assert checksum([values]) != checksum([flipped])
    assert checksum([values, values]) != checksum([values])
    assert checksum([values.bfloat16()]) == checksum([values.bfloat16().clone()])
    assert checksum([values[:5], values[5:]]) != checksum([values[:4], values[4:]])


def test_running_statistics_are_put_back() -> None:
    norm = nn.BatchNorm1d(3)
    with unchanged_buffers([norm]):
        norm(torch.randn(8, 3))
        assert int(norm.num_batches_tracked or 0) == 1
    assert int(norm.num_batches_tracked or 0) == 0


class NoisyProgram(ToyProgram):
    """Takes numbers from torch's global generator, as a dropout does."""

    def __init__(self, task: ToyTask, device: torch.device = CPU) -> None:
        super().__init__(task, device)
        self.passes[0].module.register_forward_hook(
            lambda _module, _arguments, output: PassOutput(
                loss_sum=output.loss_sum * (1 + 0.1 * torch.rand(())), metrics=output.metrics
            )
        )


def weights_of(folder: Path, watch: WatchSettings) -> dict[str, torch.Tensor]:
    run_worker(
        NoisyProgram,
        ToyTask(),
        LOOP,
        retry=EVERY_5,
        checkpoints=checkpoints(folder),
        reporter=Recorder(),
        worker=WorkerRank(rank=0, world_size=1, device=CPU),
        execution=TrainingExecution(watch=watch),
    )
    return trained(folder)


def test_a_training_whose_steps_are_verified_has_the_same_bits(tmp_path: Path) -> None:
    plain = weights_of(tmp_path / "plain", WatchSettings())
    verified = weights_of(tmp_path / "verified", WatchSettings(verify_every=1, every=3, spike_z=0.001))
    assert all(torch.equal(tensor, plain[name]) for name, tensor in verified.items())
