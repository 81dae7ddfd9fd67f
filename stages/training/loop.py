"""The training loop as one worker runs it. Everything random follows from the seed and the place in the data."""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.optimization import WeightAverages, learning_rate_factor, make_optimizer, set_learning_rates
from orchestrator.errors import NumericError
from orchestrator.stage import Checkpoints, RetryPolicy
from stages.training.checkpoint_files import AVERAGE, Progress, Skip, Snapshot, load_state
from stages.training.checkpoint_pace import Pace
from stages.training.checkpoint_saver import CheckpointSaver
from stages.training.config import LoopConfig
from stages.training.program import Micro, Pass, PassOutput, ProgramClass, Sum, Task, TrainingProgram

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where this worker stands among the others."""

    rank: int
    world: int
    device: torch.device


class Reporter(Protocol):
    """How a worker talks to the stage's driver; calls return at once."""

    def started(self, step: int) -> None: ...
    def step(self, step: int, metrics: dict[str, float]) -> None: ...
    def stop_requested(self) -> bool: ...


def run_worker(
    program_class: ProgramClass[Task],
    task: Task,
    loop: LoopConfig,
    *,
    retry: RetryPolicy,
    checkpoints: Checkpoints,
    reporter: Reporter,
    place: Place,
) -> None:
    """Train from the newest committed checkpoint to the last step, or to a clean stop when one is asked for.

    After a loss that is no number: back to the last multiple of `loop.skip_window`, the data since then are passed
    over, at most `loop.most_skips` times. All workers see the same numbers, so all decide alike, and so does whoever
    continues: `retry` says when checkpoints are made, and nothing that is trained depends on it.
    Raises: NumericError with step, learning rates and samples when skipping did not help.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module; it writes every new tensor twice
    skips: tuple[Skip, ...] = ()
    pace = Pace(retry, workers=place.world)
    while True:
        try:
            _train(
                program_class,
                task,
                loop,
                pace=pace,
                checkpoints=checkpoints,
                reporter=reporter,
                place=place,
                skips=skips,
            )
            return
        except _NotFiniteError as error:
            if len(error.skips) >= loop.most_skips:
                raise NumericError(f"{error}; {len(error.skips)} windows of data were passed over before") from error
            start = _window_start(error.step, loop)
            skips = (*error.skips, Skip(at=start, count=error.step - start + 1))
            logger.warning("%s; going on from step %d without the data since then", error, start)


def _window_start(step: int, loop: LoopConfig) -> int:
    return step - step % loop.skip_window


def _train(
    program_class: ProgramClass[Task],
    task: Task,
    loop: LoopConfig,
    *,
    pace: Pace,
    checkpoints: Checkpoints,
    reporter: Reporter,
    place: Place,
    skips: Sequence[Skip],
) -> None:
    torch.manual_seed(loop.seed)
    program = program_class(task, place.device)
    trainer = _Trainer(program, loop, place)
    progress = trainer.restore(checkpoints, skips)
    step = started = progress.step
    reporter.started(step)
    micros = _prefetched(program, loop, place, progress)
    began = time.monotonic()
    with CheckpointSaver(checkpoints, loop.keep_checkpoints, loop.skip_window) as saver:
        while step < loop.steps:
            batch = next(micros)
            try:
                metrics, stopping = trainer.step(step, batch, stop=reporter.stop_requested())
            except NumericError as error:
                saver.wait()
                if place.rank == 0 and len(progress.skips) < loop.most_skips:
                    checkpoints.withdraw(after=_window_start(step, loop))
                trainer.meet()  # all workers go back to the same checkpoint
                samples = ", ".join(sample for micro in batch for sample in micro.samples) or "not named"
                data_step = progress.data_step(step)
                raise _NotFiniteError(
                    f"{error} Data: step {data_step}, samples {samples}", step=step, skips=progress.skips
                ) from error
            step += 1
            metrics["steps_per_s"] = (step - started) / (time.monotonic() - began)
            metrics["data_steps_skipped"] = float(progress.data_step(step) - step)
            if place.rank == 0 and (step == loop.steps or stopping or pace.is_due(step, writing=saver.writing)):
                held_up = time.monotonic()
                saver.save(trainer.snapshot(replace(progress, step=step)))
                metrics["checkpoint_stall_s"] = time.monotonic() - held_up
                pace.saved(stall_s=metrics["checkpoint_stall_s"])
            timings = saver.timings()
            if "checkpoint_write_s" in timings:
                pace.written(timings["checkpoint_write_s"])
                metrics["checkpoint_interval_s"] = pace.interval_s  # to the next one, unless steps are stated
            reporter.step(step, {**metrics, **timings})
            if stopping:
                return


class _NotFiniteError(NumericError):
    """A loss or a gradient that is no number, and what was passed over before."""

    def __init__(self, message: str, *, step: int, skips: tuple[Skip, ...]) -> None:
        super().__init__(message)
        self.step, self.skips = step, skips


class _Trainer:
    """Model, optimizers and their state over the steps."""

    def __init__(self, program: TrainingProgram, loop: LoopConfig, place: Place) -> None:
        if loop.micros_per_step < place.world:
            raise ValueError(
                f"micros_per_step: {loop.micros_per_step} micro-batches leave some of {place.world} workers without "
                "work; set resources.workers to at most their number"
            )
        self.program, self.loop, self.place = program, loop, place
        settings = loop.optimizer
        self.optimizers = {
            each.name: make_optimizer(
                each.groups,
                name=settings.name,
                betas=settings.betas,
                eps=settings.eps,
                weight_decay=settings.weight_decay,
            )
            for each in program.passes
        }
        self.averages = WeightAverages(program.weights, loop.average_decay) if loop.average_decay else None
        kept = self.averages.modules if self.averages else {}
        self.weights = {**program.weights, **{AVERAGE + name: module for name, module in kept.items()}}

    def restore(self, checkpoints: Checkpoints, skips: Sequence[Skip]) -> Progress:
        """Load the newest committed checkpoint, wrap the modules for the strategy, and say how far it is.

        `skips`, once this process has decided on one, are all that there are; the checkpoint may not know the last.
        """
        found = checkpoints.latest()
        progress = Progress()
        if found is not None:
            progress = load_state(found.path, weights=self.weights, optimizers=self.optimizers)
            logger.info("continuing from the checkpoint of step %d", progress.step)
        progress = replace(progress, skips=tuple(skips) or progress.skips)
        self.modules = {each.name: _parallel(each.module, self.place) for each in self.program.passes}
        return progress

    def snapshot(self, progress: Progress) -> Snapshot:
        return Snapshot.of(weights=self.weights, optimizers=self.optimizers, progress=progress)

    def meet(self) -> None:
        """Wait until all workers are here."""
        if self.place.world > 1:
            dist.barrier()

    def step(self, step: int, micros: list[Micro], *, stop: bool) -> tuple[dict[str, float], bool]:
        """One optimizer step of every pass. Gives the step's mean metrics and whether any worker wants to stop."""
        shared = torch.tensor([sum(micro.weight for micro in micros), float(stop)], dtype=torch.float64)
        weight, stops = self._sum(shared).tolist()
        factor = learning_rate_factor(
            step,
            steps=self.loop.steps,
            schedule=self.loop.optimizer.schedule,
            warmup_share=self.loop.optimizer.warmup_share,
            final_share=self.loop.optimizer.final_share,
        )
        metrics: dict[str, float] = {}
        for each in self.program.passes:
            if step >= each.first_step:
                metrics.update(self._run_pass(each, step, micros, weight=weight, factor=factor))
        if self.averages:
            self.averages.update(step)
        return metrics, stops > 0

    def _run_pass(
        self, each: Pass, step: int, micros: list[Micro], *, weight: float, factor: float
    ) -> dict[str, float]:
        optimizer, module = self.optimizers[each.name], self.modules[each.name]
        set_learning_rates(optimizer, factor)
        optimizer.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}  # [sum, weight] of each metric, float64
        for index, micro in enumerate(micros):
            with self._no_sync(module, last=index == len(micros) - 1), self._autocast():
                generator = torch.Generator().manual_seed(micro.seed)
                output: PassOutput = module(micro.data, generator, step)
                # DistributedDataParallel averages over workers; the step's mean wants the sum.
                (output.loss_sum * (self.place.world / weight)).backward()
            for name, part in {"loss": Sum(output.loss_sum, micro.weight), **output.metrics}.items():
                pair = torch.stack([torch.as_tensor(number).detach().double().cpu() for number in part])
                sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + pair
        for parameter in _parameters(each):
            if parameter.grad is None:  # not used by any micro-batch: the optimizer still sees it, on any world size
                parameter.grad = torch.zeros_like(parameter)
        norm = self._clip(each)
        means = {f"{each.name}/{name}": value for name, value in self._means(sums).items()}
        loss = means[f"{each.name}/loss"]
        if not (torch.isfinite(norm) and loss == loss and abs(loss) != float("inf")):
            rates = ", ".join(f"{group['lr']:.3g}" for group in optimizer.param_groups)
            raise NumericError(
                f"step {step}, pass {each.name}: loss {loss}, gradient norm {float(norm)} at learning rates {rates}; "
                "committed checkpoints are intact. Lower the learning rate or look at this step's samples."
            )
        optimizer.step()
        return {**means, f"{each.name}/grad_norm": float(norm), f"{each.name}/lr": optimizer.param_groups[0]["lr"]}

    def _clip(self, each: Pass) -> torch.Tensor:
        return nn.utils.clip_grad_norm_(_parameters(each), self.loop.optimizer.clip_norm or float("inf"))

    def _means(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        totals = self._sum(torch.stack([sums[name] for name in sorted(sums)]))
        return {
            name: float(value / weight) for name, (value, weight) in zip(sorted(sums), totals, strict=True) if weight
        }

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        if self.place.world > 1:
            moved = values.to(self.place.device)
            dist.all_reduce(moved)
            return moved.cpu()
        return values

    def _no_sync(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        if isinstance(module, DistributedDataParallel) and not last:
            return module.no_sync()
        return nullcontext()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.loop.precision == "bf16":
            return torch.autocast(self.place.device.type, dtype=torch.bfloat16)
        return nullcontext()


def _parameters(each: Pass) -> list[nn.Parameter]:
    return [parameter for group in each.groups for parameter in group["params"]]


def _parallel(module: nn.Module, place: Place) -> nn.Module:
    """The seam of the strategies: how one pass's module is spread over the workers."""
    if place.world == 1:
        return module
    devices = [place.device] if place.device.type == "cuda" else None
    # A micro-batch without images, say, leaves the adapters unused.
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True)


def _prefetched(program: TrainingProgram, loop: LoopConfig, place: Place, progress: Progress) -> Iterator[list[Micro]]:
    """The micro-batches of this worker, step by step; the next step's are made while this one is computed."""

    def make(step: int) -> list[Micro]:
        data_step = progress.data_step(step)
        return [program.micro(data_step, index) for index in range(place.rank, loop.micros_per_step, place.world)]

    with ThreadPoolExecutor(1, thread_name_prefix="micros") as pool:
        upcoming: Future[list[Micro]] = pool.submit(make, progress.step)
        for step in range(progress.step, loop.steps):
            current = upcoming.result()
            if step + 1 < loop.steps:
                upcoming = pool.submit(make, step + 1)
            yield current
