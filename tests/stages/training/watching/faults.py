"""A training of three workers (gloo) on which faults are made on purpose, and what the system said, and when."""

import time
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from orchestrator.errors import OrchestratorError
from orchestrator.stage import Resources, RetryPolicy
from stages.training.config import LoopConfig, OptimizerConfig, TrainingExecution, WatchSettings
from stages.training.driver import train
from stages.training.group_monitor import GroupMonitor
from stages.training.program import MicroBatch, PassOutput
from stages.training.workers.process_group import ProcessGroup
from stages.training.workers.worker import worker_settings
from tests.stages.training.stage_context import TrackedEvents, TrainingContext
from tests.stages.training.toy import CPU, ToyPass, ToyProgram, ToyTask

WORKERS = 3
SLOW, CORRUPT, HUNG = 1, 2, 1  # ranks
PAUSE_S = 0.05  # of the slow worker, each micro-batch
SPIKE_STEP, CORRUPT_STEP, HANG_STEP = 24, 28, 4
HANG_AFTER_S = 40.0  # seconds that three processes need to start are less than half of it
LOOP = LoopConfig(
    steps=40,
    micro_batches_per_step=WORKERS,
    seed=5,
    optimizer=OptimizerConfig(warmup_share=0.0, schedule="constant"),
)
WATCH = WatchSettings(every=4, straggler_window=2, verify_every=2, peak_tflops=0.001)


@dataclass(frozen=True, kw_only=True)
class FaultyTask:
    toy: ToyTask = field(default_factory=ToyTask)
    marks: str  # folder; a file in it for each fault, with the time at which it was made
    faults: tuple[str, ...]


class FaultyPass(nn.Module):
    def __init__(self, inner: ToyPass, task: FaultyTask) -> None:
        super().__init__()
        self.inner = inner
        self._task = task

    def forward(self, data: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator, step: int) -> PassOutput:
        rank, faults = dist.get_rank(), self._task.faults
        if "slow" in faults and rank == SLOW:
            self._mark("slow")
            time.sleep(PAUSE_S)
        if "hang" in faults and rank == HUNG and step == HANG_STEP:
            self._mark("hang")
            wait_for_ever()
        output: PassOutput = self.inner(data, generator, step)
        errors = (self.inner.model(data[0]) - data[1]).detach().square()
        sums = torch.stack([errors[:, 0], torch.ones(len(errors))], dim=1)[None]
        output = replace(output, kinds=("squared",), sample_sums=sums)
        if "corrupt" in faults and rank == CORRUPT and step >= CORRUPT_STEP:
            self._mark("corrupt")
            flip = 1 + torch.randint(1, 1000, (), generator=_OTHER) * 2.0**-23  # a few of the last bits
            output = replace(output, loss_sum=output.loss_sum * flip)
        return output

    def _mark(self, fault: str) -> None:
        file = Path(self._task.marks, fault)
        if not file.exists():
            file.write_text(str(time.time()))


_OTHER = torch.Generator().manual_seed(9)  # the device's, so to say: it is not put back


def wait_for_ever() -> None:
    while True:
        time.sleep(0.1)


class FaultyProgram(ToyProgram):
    sources = ("even rows", "odd rows")
    step_flops = 3e6

    def __init__(self, task: FaultyTask, device: torch.device = CPU) -> None:
        super().__init__(task.toy, device)
        self._faulty = task
        inner = self.passes[0].module
        assert isinstance(inner, ToyPass)
        self.passes = (replace(self.passes[0], module=FaultyPass(inner, task)),)

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        found = super().micro_batch(step, index)
        if "spike" in self._faulty.faults and (step, index) == (SPIKE_STEP, 2):
            Path(self._faulty.marks, "spike").write_text(str(time.time()))
            x, y = found.data
            y = y.clone()
            y[3] += 300.0
            found = replace(found, data=(x, y))
        sources = tuple(row % 2 for row in range(len(found.samples)))
        return replace(found, sources=sources, tokens=10.0 * len(found.samples), padding=float(len(found.samples)))

    def originals(self, step: int, index: int, samples: Collection[str]) -> list[tuple[str, bytes]]:
        return [(f"{name}.txt", f"step {step}".encode()) for name in sorted(samples)]


@dataclass
class Outcome:
    """What a training said, and how long after the fault."""

    error: OrchestratorError | None
    events: list[tuple[float, str, Mapping[str, Any]]]  # (seconds since 1970, kind, fields)
    context: TrainingContext
    made_at: Mapping[str, float]  # fault -> seconds since 1970

    def first(self, kind: str) -> tuple[float, Mapping[str, Any]]:
        return next((at, fields) for at, found, fields in self.events if found == kind)


def train_with(faults: tuple[str, ...], folder: Path, *, hang_after_s: float = 120.0) -> Outcome:
    context, task = context_in(folder, faults, hang_after_s)
    error = None
    try:
        train(FaultyProgram, task, LOOP, context)
    except OrchestratorError as raised:
        error = raised
    made_at = {file.name: float(file.read_text()) for file in Path(task.marks).iterdir()}
    tracker = context.tracker
    assert isinstance(tracker, TrackedEvents)
    return Outcome(error=error, events=tracker.timed, context=context, made_at=made_at)


def context_in(folder: Path, faults: tuple[str, ...], hang_after_s: float) -> tuple[TrainingContext, FaultyTask]:
    marks = folder / "marks"
    marks.mkdir(parents=True)
    context = TrainingContext(
        folder,
        resources=Resources(workers=WORKERS),
        retry=RetryPolicy(checkpoint_every=5, hang_after_s=hang_after_s),
        tracker=TrackedEvents(),
        settings=TrainingExecution(watch=WATCH),
    )
    return context, FaultyTask(marks=str(marks), faults=faults)


def hang(folder: Path, *, hang_after_s: float = 1e6) -> tuple[str, str, Mapping[str, Any]]:
    """What is said of a training that hangs at half time and at the end, and the event; by a made-up clock."""
    context, task = context_in(folder, ("hang",), hang_after_s)
    clock = Clock()
    with closing(ProcessGroup(worker_settings(FaultyProgram, task, LOOP, context), context)) as group:
        monitor = GroupMonitor(group, LOOP, context, "rows", clock)
        while not Path(task.marks, "hang").exists():
            assert not group.wait(0.1)
            monitor.poll()
        group.wait(2.0)  # until the others wait for it
        monitor.poll()
        clock.now = 0.6 * hang_after_s
        monitor.poll()
        suspected = monitor.suspected
        clock.now = 1.1 * hang_after_s
        monitor.poll()
    return suspected, monitor.hung or "", context.tracker.events[-1][1]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now
