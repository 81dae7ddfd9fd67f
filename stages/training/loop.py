"""The training loop of one worker. Everything random follows from the seed and the position in the data."""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.optimization import WeightAverages, learning_rate_factor, make_optimizer, set_learning_rates
from orchestrator.artifact import JSON
from orchestrator.errors import NumericError
from orchestrator.stage import Checkpoint, Checkpoints, RetryPolicy
from stages.training.agreement import WorkerRank, agree_on_checkpoint, check_alike, gather_texts
from stages.training.checkpoint_files import AVERAGE_PREFIX, Progress, Skip, Snapshot, load_state
from stages.training.checkpoint_pace import CheckpointPace
from stages.training.checkpoint_saver import CheckpointSaver
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.program import MicroBatch, Pass, PassOutput, ProgramClass, Task, TrainingProgram, order_of
from stages.training.spreads import SPREADS, Spread, add_spread, spreads_of, spreads_to_json
from stages.training.step_line import DATA_WAIT_S, MEMORY_GIB, WEIGHT_PER_S, process_memory_gib
from stages.training.step_sums import StepSums

logger = logging.getLogger(__name__)

DEFAULT_EXECUTION = TrainingExecution()
STEP_WEIGHT = "step_weight"  # of all micro-batches of a step; becomes a rate


class Reporter(Protocol):
    """A worker's connection to the stage's driver; calls return at once."""

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
    worker: WorkerRank,
    execution: TrainingExecution = DEFAULT_EXECUTION,
) -> None:
    """Train from the newest committed checkpoint to the last step, or to a clean stop when one is requested.

    Rank 0 chooses the checkpoint, and no worker computes before all have opened it and agree on order and config.

    After a non-finite loss, training goes back to the last multiple of `loop.skip_window` and skips the data since
    then, at most `loop.max_skips` times. All workers see the same values, so all decide alike, and so does an attempt
    that continues. `retry` decides when checkpoints are made; what is trained does not depend on it.
    Raises: NumericError with step, learning rates and samples when skipping did not help; RanksDisagreeError.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module; it writes every new tensor twice
    skips: tuple[Skip, ...] = ()
    pace = CheckpointPace(retry, workers=worker.world_size)
    while True:
        try:
            _train(
                program_class,
                task,
                loop,
                pace=pace,
                checkpoints=checkpoints,
                reporter=reporter,
                worker=worker,
                execution=execution,
                skips=skips,
            )
            return
        except _NotFiniteError as error:
            if len(error.skips) >= loop.max_skips:
                raise NumericError(f"{error}; {len(error.skips)} windows of data were skipped before") from error
            start = _window_start(error.step, loop)
            skips = (*error.skips, Skip(at=start, count=error.step - start + 1))
            logger.warning("%s; continuing from step %d, skipping the data since then", error, start)


def _window_start(step: int, loop: LoopConfig) -> int:
    return step - step % loop.skip_window


def _train(
    program_class: ProgramClass[Task],
    task: Task,
    loop: LoopConfig,
    *,
    pace: CheckpointPace,
    checkpoints: Checkpoints,
    reporter: Reporter,
    worker: WorkerRank,
    execution: TrainingExecution,
    skips: Sequence[Skip],
) -> None:
    torch.manual_seed(loop.seed)
    program = program_class(task, worker.device)
    trainer = _Trainer(program, loop, worker)
    checkpoint = agree_on_checkpoint(checkpoints, worker)
    progress = trainer.load(checkpoint, skips)
    if worker.world_size > 1:
        facts = _facts(program, loop, checkpoint, progress)
        check_alike({**facts, "strategy": execution.strategy}, worker)
    trainer.parallelize()
    spread = Spread(from_step=progress.step, workers=worker.world_size, strategy=execution.strategy)
    spreads = add_spread(spreads_of(checkpoint) if checkpoint else (), spread)
    step = started = progress.step
    reporter.started(step)
    batches = _prefetch(program, loop, worker, progress)
    began = time.monotonic()
    with CheckpointSaver(checkpoints, execution.keep_checkpoints, loop.skip_window) as saver:
        while step < loop.steps:
            asked_at = time.monotonic()
            micro_batches = next(batches)
            data_wait_s = time.monotonic() - asked_at
            try:
                metrics, should_stop = trainer.step(step, micro_batches, stop=reporter.stop_requested())
            except NumericError as error:
                saver.wait()
                if worker.rank == 0 and len(progress.skips) < loop.max_skips:
                    checkpoints.retract_after(_window_start(step, loop))
                trainer.barrier()  # all workers go back to the same checkpoint
                data_step = progress.data_step(step)
                raise _NotFiniteError(f"{error}\nData step {data_step}", step=step, skips=progress.skips) from error
            step += 1
            metrics["steps_per_s"] = (step - started) / (time.monotonic() - began)
            metrics |= {DATA_WAIT_S: data_wait_s, MEMORY_GIB: _memory_gib(worker)}
            metrics[WEIGHT_PER_S] = metrics.pop(STEP_WEIGHT, 0.0) / (time.monotonic() - asked_at)
            metrics["data_steps_skipped"] = float(progress.data_step(step) - step)
            is_last = step == loop.steps or should_stop
            if worker.rank == 0 and (is_last or pace.is_due(step, is_writing=saver.is_writing)):
                stalled_at = time.monotonic()
                saver.save(trainer.snapshot(replace(progress, step=step)), {SPREADS: spreads_to_json(spreads)})
                metrics["checkpoint_stall_s"] = time.monotonic() - stalled_at
                pace.record_stall(metrics["checkpoint_stall_s"])
            timings = saver.pop_timings()
            if "checkpoint_write_s" in timings:
                pace.record_write(timings["checkpoint_write_s"])
                metrics["checkpoint_interval_s"] = pace.interval_s  # unused if `retry.checkpoint_every` is set
            reporter.step(step, {**metrics, **timings})
            if should_stop:
                return


def _memory_gib(worker: WorkerRank) -> float:
    if worker.device.type == "cuda":
        return torch.cuda.max_memory_allocated(worker.device) / 1024**3
    return process_memory_gib()


def _facts(
    program: TrainingProgram, loop: LoopConfig, checkpoint: Checkpoint | None, progress: Progress
) -> dict[str, JSON]:
    """What must be equal on all workers; they make the same micro-batch to compare its samples."""
    first = program.micro_batch(progress.data_step(progress.step), 0) if progress.step < loop.steps else None
    config: JSON = asdict(loop)
    return {
        "checkpoint": "" if checkpoint is None else checkpoint.digest,
        "step": progress.step,
        "skips": [asdict(skip) for skip in progress.skips],
        "order": [order_of(program), *([] if first is None else [first.seed, repr(first.weight), *first.samples])],
        "config": config,
    }


class _NotFiniteError(NumericError):
    """A non-finite loss or gradient, with its step and the data skipped before."""

    def __init__(self, message: str, *, step: int, skips: tuple[Skip, ...]) -> None:
        super().__init__(message)
        self.step, self.skips = step, skips


class _Trainer:
    """Model, optimizers and their state over the steps."""

    def __init__(self, program: TrainingProgram, loop: LoopConfig, worker: WorkerRank) -> None:
        if loop.micro_batches_per_step < worker.world_size:
            raise ValueError(
                f"micro_batches_per_step: {loop.micro_batches_per_step} micro-batches leave some of "
                f"{worker.world_size} workers without work; set resources.workers to at most their number"
            )
        self.program, self.loop, self.worker = program, loop, worker
        settings = loop.optimizer
        self.optimizers = {
            training_pass.name: make_optimizer(
                training_pass.groups,
                name=settings.name,
                betas=settings.betas,
                eps=settings.eps,
                weight_decay=settings.weight_decay,
            )
            for training_pass in program.passes
        }
        self.averages = WeightAverages(program.weights, loop.average_decay) if loop.average_decay else None
        averaged = self.averages.modules if self.averages else {}
        self.weights = {**program.weights, **{AVERAGE_PREFIX + name: module for name, module in averaged.items()}}

    def load(self, checkpoint: Checkpoint | None, skips: Sequence[Skip]) -> Progress:
        """Load a checkpoint, if there is one. Returns the progress.

        `skips`, if not empty, replace those of the checkpoint, which may lack the newest that this process decided on.
        """
        progress = Progress()
        if checkpoint is not None:
            progress = load_state(checkpoint.path, weights=self.weights, optimizers=self.optimizers)
            logger.info("continuing from the checkpoint of step %d", progress.step)
        return replace(progress, skips=tuple(skips) or progress.skips)

    def parallelize(self) -> None:
        """Wrap the modules for the strategy; all workers do so at the same time."""
        self.modules = {
            training_pass.name: _parallelize(training_pass.module, self.worker) for training_pass in self.program.passes
        }

    def snapshot(self, progress: Progress) -> Snapshot:
        return Snapshot.capture(weights=self.weights, optimizers=self.optimizers, progress=progress)

    def barrier(self) -> None:
        """Wait until all workers have called this."""
        if self.worker.world_size > 1:
            dist.barrier()

    def step(self, step: int, micro_batches: list[MicroBatch], *, stop: bool) -> tuple[dict[str, float], bool]:
        """One optimizer step of every pass. Returns the step's mean metrics and whether any worker wants to stop."""
        local = torch.tensor([sum(batch.weight for batch in micro_batches), float(stop)], dtype=torch.float64)
        weight, num_stops = self._sum_over_workers(local).tolist()
        factor = learning_rate_factor(
            step,
            steps=self.loop.steps,
            schedule=self.loop.optimizer.schedule,
            warmup_share=self.loop.optimizer.warmup_share,
            final_share=self.loop.optimizer.final_share,
        )
        metrics: dict[str, float] = {}
        if not weight:  # all workers see the same sum
            logger.warning("step %d: none of its data is trained on; the weights stay as they are", step)
            return metrics, num_stops > 0
        for training_pass in self.program.passes:
            if step >= training_pass.first_step:
                metrics.update(self._run_pass(training_pass, step, micro_batches, weight=weight, factor=factor))
        if self.averages:
            self.averages.update(step)
        metrics[STEP_WEIGHT] = weight
        return metrics, num_stops > 0

    def _run_pass(
        self, training_pass: Pass, step: int, micro_batches: list[MicroBatch], *, weight: float, factor: float
    ) -> dict[str, float]:
        name = training_pass.name
        optimizer, module = self.optimizers[name], self.modules[name]
        set_learning_rates(optimizer, factor)
        optimizer.zero_grad(set_to_none=True)
        sums = StepSums()
        for index, micro_batch in enumerate(micro_batches):
            with self._no_sync(module, last=index == len(micro_batches) - 1):
                generator = torch.Generator().manual_seed(micro_batch.seed)
                with self._autocast():
                    output: PassOutput = module(micro_batch.data, generator, step)
                # DistributedDataParallel averages over workers; the step's mean wants the sum.
                (output.loss_sum * (self.worker.world_size / weight)).backward()  # never under autocast
            sums.add(self.worker.rank + index * self.worker.world_size, micro_batch, output)
        for parameter in _parameters(training_pass):
            if parameter.grad is None:  # used by no micro-batch: the optimizer still sees it, for any world size
                parameter.grad = torch.zeros_like(parameter)
        norm = self._clip(training_pass)
        means = {f"{name}/{metric}": value for metric, value in self._means(sums).items()}
        loss = means[f"{name}/loss"]
        if not (torch.isfinite(norm) and loss == loss and abs(loss) != float("inf")):
            rates = ", ".join(f"{group['lr']:.3g}" for group in optimizer.param_groups)
            raise NumericError(
                f"step {step}, pass {name}: loss {loss}, gradient norm {float(norm)} at learning rates {rates}; "
                f"committed checkpoints are intact. {self._where_non_finite(sums, micro_batches)}"
            )
        optimizer.step()
        return {**means, f"{name}/grad_norm": float(norm), f"{name}/lr": optimizer.param_groups[0]["lr"]}

    def _clip(self, training_pass: Pass) -> torch.Tensor:
        return nn.utils.clip_grad_norm_(_parameters(training_pass), self.loop.optimizer.clip_norm or float("inf"))

    def _means(self, sums: StepSums) -> dict[str, float]:
        totals = self._sum_over_workers(sums.total())
        return {name: float(value / weight) for name, (value, weight) in zip(sums.names, totals, strict=True) if weight}

    def _where_non_finite(self, sums: StepSums, micro_batches: list[MicroBatch]) -> str:
        """The micro-batches at fault, of all workers: each of them says the same, whoever is heard first."""
        found = gather_texts("\n".join(sums.non_finite(self.worker.rank, micro_batches)), self.worker)
        lines = [line for text in found for line in text.splitlines()]
        if not lines:
            return "The loss of every micro-batch is finite, only the gradient is not: lower the learning rate."
        return "Look at these samples, or lower the learning rate:\n" + "\n".join(f"  {line}" for line in lines)

    def _sum_over_workers(self, values: torch.Tensor) -> torch.Tensor:
        if self.worker.world_size > 1:
            on_device = values.to(self.worker.device)
            dist.all_reduce(on_device)
            return on_device.cpu()
        return values

    def _no_sync(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        if isinstance(module, DistributedDataParallel) and not last:
            return module.no_sync()
        return nullcontext()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.loop.precision == "bf16":
            return torch.autocast(self.worker.device.type, dtype=torch.bfloat16)
        return nullcontext()


def _parameters(training_pass: Pass) -> list[nn.Parameter]:
    return [parameter for group in training_pass.groups for parameter in group["params"]]


def _parallelize(module: nn.Module, worker: WorkerRank) -> nn.Module:
    """A pass's module wrapped for training on several workers; strategies other than DDP would be added here."""
    if worker.world_size == 1:
        return module
    devices = [worker.device] if worker.device.type == "cuda" else None
    # A micro-batch without images, for example, leaves the adapters unused.
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True)


def _prefetch(
    program: TrainingProgram, loop: LoopConfig, worker: WorkerRank, progress: Progress
) -> Iterator[list[MicroBatch]]:
    """This worker's micro-batches, step by step; those of the next step are made while the current one is computed."""

    def make(step: int) -> list[MicroBatch]:
        data_step = progress.data_step(step)
        return [
            program.micro_batch(data_step, index)
            for index in range(worker.rank, loop.micro_batches_per_step, worker.world_size)
        ]

    with ThreadPoolExecutor(1, thread_name_prefix="micro-batches") as pool:
        upcoming: Future[list[MicroBatch]] = pool.submit(make, progress.step)
        for step in range(progress.step, loop.steps):
            current = upcoming.result()
            if step + 1 < loop.steps:
                upcoming = pool.submit(make, step + 1)
            yield current
