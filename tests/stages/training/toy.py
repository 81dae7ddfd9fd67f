"""A small regression problem as a training task, for tests of the training loop."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from stages.training.program import MicroBatch, Pass, PassOutput, Sum, micro_batch_seed

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class ToyTask:
    batch: int = 4
    seed: int = 3
    poison_step: int = -1  # the loss of this optimizer step is NaN
    loss_scale: float = 1.0
    poison_data: tuple[int, ...] = ()  # data steps that contain a NaN
    pause_s: float = 0.0  # that each micro-batch takes
    log: str = ""  # file that gets a line for each micro-batch: step and sum of its data
    hold: str = ""  # file; the pass waits while it exists


class ToyPass(nn.Module):
    def __init__(self, model: nn.Module, task: ToyTask) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, data: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator, step: int) -> PassOutput:
        x, y = data
        if self._task.log:
            with Path(self._task.log).open("a") as file:
                file.write(f"{step} {x.double().sum().item():.12f}\n")
        time.sleep(self._task.pause_s)
        while self._task.hold and Path(self._task.hold).exists():
            time.sleep(0.05)
        noisy = x + 0.01 * torch.randn(x.shape, generator=generator)
        error = self._task.loss_scale * (self.model(noisy) - y).square().sum()
        if step == self._task.poison_step:
            error = error * float("nan")
        return PassOutput(loss_sum=error, metrics={"mean_x": Sum(x.mean() * len(x), len(x))})


class ToyProgram:
    def __init__(self, task: ToyTask, device: torch.device = CPU) -> None:
        torch.manual_seed(0)
        self._task = task
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.passes = (
            Pass(
                name="fit",
                module=ToyPass(self.model, task),
                groups=[{"params": list(self.model.parameters()), "lr": 1e-2}],
            ),
        )
        self.weights = {"model": self.model}

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        task = self._task
        seed = micro_batch_seed(task.seed, step, index)
        generator = torch.Generator().manual_seed(seed)
        count = task.batch + index % 2  # unequal weights
        x = torch.randn(count, 3, generator=generator)
        if step in task.poison_data and index == 2:
            x[0, 0] = float("nan")
        names = tuple(f"sample-{step}-{index}-{row}" for row in range(count))
        return MicroBatch(data=(x, x.sum(1, keepdim=True)), weight=count, seed=seed, samples=names)
