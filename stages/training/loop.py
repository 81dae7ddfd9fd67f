"""The training loop of one worker. Everything random follows from the seed and the position in the data."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import Protocol

import torch
import torch.distributed as dist

from models.optimization import learning_rate_factor
from orchestrator.artifact import JSON
from orchestrator.errors import NumericError, OrchestratorError
from orchestrator.stage import Checkpoint, Checkpoints, RetryPolicy
from stages.training.agreement import WorkerRank, agree_on_checkpoint, check_alike, gather_texts
from stages.training.checkpoints.local_copies import LocalCopies
from stages.training.checkpoints.pace import CheckpointPace
from stages.training.checkpoints.peer_copies import nearest_folder, peer_copies
from stages.training.checkpoints.progress import Progress, Skip, read_progress
from stages.training.checkpoints.saver import CheckpointSaver
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.program import (
    MicroBatch,
    Pass,
    ProgramClass,
    Task,
    TrainingProgram,
    order_of,
    sequence_workers_of,
    sources_of,
)
from stages.training.spreads import SPREADS, Spread, add_spread, spreads_of, spreads_to_json
from stages.training.step_line import CHECKPOINT_WRITE_S, DATA_WAIT_S, MEMORY_GIB, WEIGHT_PER_S
from stages.training.step_sums import StepSums
from stages.training.strategies.choice import make_strategy
from stages.training.strategies.mesh import check_micro_batches
from stages.training.strategies.strategy import Strategy
from stages.training.watching.notices import PREEMPTED, Notice
from stages.training.watching.preemption import PreemptionNotices, PreemptionWatch
from stages.training.watching.step_watch import StepAmounts, StepWatch
from stages.training.watching.verification import CorruptWorkerError
from stages.training.watching.workers_compared import memory_gib

logger = logging.getLogger(__name__)

DEFAULT_EXECUTION = TrainingExecution()
STEP_WEIGHT = "step_weight"  # of all micro-batches of a step; becomes a rate


class Reporter(PreemptionNotices, Protocol):
    """A worker's connection to the stage's driver; calls return at once."""

    def started(self, step: int) -> None: ...
    def step(self, step: int, metrics: dict[str, float]) -> None: ...
    def notify(self, notice: Notice) -> None: ...
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
    copies: LocalCopies | None = None,
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
            last_step = _train(
                program_class,
                task,
                loop,
                pace=pace,
                checkpoints=checkpoints,
                reporter=reporter,
                worker=worker,
                execution=execution,
                skips=skips,
                copies=copies,
            )
            if copies is not None and last_step == loop.steps:
                copies.delete()  # nothing is continued
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
    copies: LocalCopies | None,
) -> int:
    """Returns the last step that was done."""
    torch.manual_seed(loop.seed)
    program = program_class(task, worker.device)
    worker = replace(worker, sequence_workers=sequence_workers_of(program))
    check_micro_batches(loop.micro_batches_per_step, worker.world_size, worker.sequence_workers)
    checkpoint = agree_on_checkpoint(checkpoints, worker)
    progress = Progress() if checkpoint is None else read_progress(checkpoint.path)
    progress = replace(progress, skips=tuple(skips) or progress.skips)  # the checkpoint may lack the newest
    if worker.world_size > 1:
        facts = _facts(program, loop, checkpoint, progress)
        check_alike({**facts, "execution": asdict(execution)}, worker)
    peers = peer_copies(copies, execution, worker)
    folder = nearest_folder(checkpoint, copies, peers)
    strategy = make_strategy(program, loop, execution, worker, checkpoint=folder)
    if checkpoint is not None:
        logger.info("continuing from the checkpoint of step %d", progress.step)
    saved = {} if checkpoint is None else checkpoint.meta
    watch = StepWatch(
        program, loop, execution.watch, strategy, worker, notify=reporter.notify, saved=saved, first_step=progress.step
    )
    if worker.rank == 0:
        reporter.notify(watch.layout(execution.strategy))
    preemption = PreemptionWatch(reporter, worker)
    trainer = _Trainer(program, loop, strategy, worker, watch, progress)
    spread = Spread(
        from_step=progress.step,
        workers=worker.world_size,
        strategy=execution.strategy,
        sequence_workers=worker.sequence_workers,
    )
    spreads = add_spread(spreads_of(checkpoint) if checkpoint else (), spread)
    step = started = progress.step
    reporter.started(step)
    batches = _prefetch(program, loop, worker, progress)
    began = time.monotonic()
    with CheckpointSaver(
        checkpoints,
        worker,
        keep=execution.keep_checkpoints,
        window=loop.skip_window,
        frozen=strategy.frozen,
        copies=copies,
        peers=peers,
    ) as saver:
        while step < loop.steps:
            asked_at = time.monotonic()
            micro_batches = next(batches)
            data_wait_s = time.monotonic() - asked_at
            requests = StepRequests(
                stop=reporter.stop_requested(),
                save=worker.rank == 0 and pace.is_due(step + 1, is_writing=saver.is_writing),
                look=preemption.is_due(),
                leave=preemption.was_told(),
            )
            try:
                metrics, agreed, amounts = trainer.step(step, micro_batches, requests)
            except (NumericError, CorruptWorkerError) as error:
                saver.wait()
                raise trainer.after_failure(error, step, checkpoints) from error
            step += 1
            metrics["steps_per_s"] = (step - started) / (time.monotonic() - began)
            metrics |= {DATA_WAIT_S: data_wait_s, MEMORY_GIB: memory_gib(worker)}
            step_s = time.monotonic() - asked_at
            metrics[WEIGHT_PER_S] = metrics.pop(STEP_WEIGHT, 0.0) / step_s
            metrics |= watch.end_step(step, step_s=step_s, data_wait_s=data_wait_s, amounts=amounts)
            metrics["data_steps_skipped"] = float(progress.data_step(step) - step)
            leave = preemption.reason(was_told=agreed.leave, is_asked=agreed.look) if step < loop.steps else None
            metrics |= watch.validate(step)
            saver.best_step = watch.best.step if watch.best else None
            if agreed.save or agreed.stop or leave or watch.is_best(step) or step == loop.steps:
                stalled_at = time.monotonic()
                facts = {SPREADS: spreads_to_json(spreads), **watch.facts()}
                saver.save(strategy.slices(), replace(progress, step=step), facts)
                metrics["checkpoint_stall_s"] = time.monotonic() - stalled_at
                pace.record_stall(metrics["checkpoint_stall_s"])
            timings = saver.pop_timings()
            if CHECKPOINT_WRITE_S in timings:
                pace.record_write(timings[CHECKPOINT_WRITE_S])
                metrics["checkpoint_interval_s"] = pace.interval_s  # unused if `retry.checkpoint_every` is set
            reporter.step(step, {**metrics, **timings})
            if leave and worker.rank == 0:
                reporter.notify(Notice(kind=PREEMPTED, fields={"step": step, **leave}))
            if agreed.stop or leave:
                break
    return step


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


@dataclass(frozen=True, kw_only=True)
class StepRequests:
    """What a worker asks all of them to do after a step."""

    stop: bool = False
    save: bool = False  # rank 0 decides when checkpoints are made
    look: bool = False  # ask the cluster whether nodes are taken away
    leave: bool = False  # a worker was told to end


_REQUESTS = tuple(field.name for field in fields(StepRequests))


class _Trainer:
    """Steps of a strategy, and the metrics of each."""

    def __init__(
        self,
        program: TrainingProgram,
        loop: LoopConfig,
        strategy: Strategy,
        worker: WorkerRank,
        watch: StepWatch,
        progress: Progress,
    ) -> None:
        self.program, self.loop, self.strategy, self.worker = program, loop, strategy, worker
        self.watch, self.progress = watch, progress  # of the skips
        self.sources = sources_of(program)

    def barrier(self) -> None:
        """Wait until all workers have called this."""
        if self.worker.world_size > 1:
            dist.barrier()

    def after_failure(self, error: OrchestratorError, step: int, checkpoints: Checkpoints) -> Exception:
        """Retract the checkpoints that are not to be continued from. Returns the error to raise."""
        self.watch.close()
        may_skip = isinstance(error, NumericError) and len(self.progress.skips) < self.loop.max_skips
        sound = _window_start(step, self.loop) if may_skip else self.watch.unsound_after
        if self.worker.rank == 0 and sound is not None:
            checkpoints.retract_after(sound)
        if not isinstance(error, NumericError):
            return error
        self.barrier()  # all workers go back to the same checkpoint
        data_step = self.progress.data_step(step)
        return _NotFiniteError(f"{error}\nData step {data_step}", step=step, skips=self.progress.skips)

    def step(
        self, step: int, micro_batches: list[MicroBatch], requests: StepRequests
    ) -> tuple[dict[str, float], StepRequests, StepAmounts]:
        """One optimizer step of every pass. Returns the step's mean metrics, what any worker requests, and how much
        data it held."""
        asked = [float(asks) for asks in astuple(requests)]
        amounts = [sum(getattr(batch, name) for batch in micro_batches) for name in ("weight", "tokens", "padding")]
        summed = self._sum_over_workers(torch.tensor([*amounts, *asked], dtype=torch.float64)).tolist()
        weight, found = summed[0], StepAmounts(tokens=summed[1], padding=summed[2])
        agreed = StepRequests(**dict(zip(_REQUESTS, (count > 0 for count in summed[3:]), strict=True)))
        if not weight:  # all workers see the same sum
            logger.warning("step %d: none of its data is trained on; the weights stay as they are", step)
            return {}, agreed, found
        self.watch.verify(step, micro_batches, self._num_micro_steps(micro_batches))
        factor = learning_rate_factor(
            step,
            steps=self.loop.steps,
            schedule=self.loop.optimizer.schedule,
            warmup_share=self.loop.optimizer.warmup_share,
            final_share=self.loop.optimizer.final_share,
        )
        metrics: dict[str, float] = {}
        for training_pass in self.program.passes:
            if step >= training_pass.first_step:
                metrics.update(self._run_pass(training_pass, step, micro_batches, weight=weight, factor=factor))
        self.strategy.end_step(step)
        metrics[STEP_WEIGHT] = weight
        return metrics, agreed, found

    def _num_micro_steps(self, micro_batches: list[MicroBatch]) -> int:
        """Of this worker; where each of them exchanges data, all make as many."""
        if self.strategy.equal_micro_steps:
            return -(-self.loop.micro_batches_per_step // self.worker.data_workers)
        return len(micro_batches)

    def _run_pass(
        self, training_pass: Pass, step: int, micro_batches: list[MicroBatch], *, weight: float, factor: float
    ) -> dict[str, float]:
        name, world_size = training_pass.name, self.worker.world_size
        self.strategy.begin_step(training_pass, factor)
        sums = StepSums(sources=self.sources)
        num_steps = self._num_micro_steps(micro_batches)
        for index in range(num_steps):
            is_real = index < len(micro_batches)  # else the first one again, which counts nothing
            micro_batch = micro_batches[index if is_real else 0]
            scale = world_size / weight if is_real else 0.0  # gradients are averaged, the step's mean wants the sum
            output = self.strategy.micro_step(
                training_pass, micro_batch, step=step, scale=scale, is_last=index == num_steps - 1
            )
            if is_real:
                sums.add(self.worker.data_rank + index * self.worker.data_workers, micro_batch, output)
        norm = float(self.strategy.clip(training_pass))
        means = {f"{name}/{metric}": value for metric, value in self._means(sums).items()}
        loss, rates = means[f"{name}/loss"], self.strategy.learning_rates(training_pass)
        if not (math.isfinite(norm) and math.isfinite(loss)):
            shown = ", ".join(f"{rate:.3g}" for rate in rates)
            raise NumericError(
                f"step {step}, pass {name}: loss {loss}, gradient norm {norm} at learning rates {shown}; "
                f"committed checkpoints are intact. {self._where_non_finite(sums, micro_batches)}"
            )
        self.watch.check_spike(
            training_pass,
            sums,
            micro_batches,
            step=step,
            data_step=self.progress.data_step(step),
            loss=loss,
            norm=norm,
            may_skip=len(self.progress.skips) < self.loop.max_skips,
        )
        self.strategy.apply(training_pass)
        return {**means, f"{name}/grad_norm": norm, f"{name}/lr": rates[0]}

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


def _prefetch(
    program: TrainingProgram, loop: LoopConfig, worker: WorkerRank, progress: Progress
) -> Iterator[list[MicroBatch]]:
    """This worker's micro-batches, step by step; those of the next step are made while the current one is computed."""

    def make(step: int) -> list[MicroBatch]:
        data_step = progress.data_step(step)
        own = range(worker.data_rank, loop.micro_batches_per_step, worker.data_workers)
        return [program.micro_batch(data_step, index).shared_by(worker.sequence_workers) for index in own]

    with ThreadPoolExecutor(1, thread_name_prefix="micro-batches") as pool:
        upcoming: Future[list[MicroBatch]] = pool.submit(make, progress.step)
        for step in range(progress.step, loop.steps):
            current = upcoming.result()
            if step + 1 < loop.steps:
                upcoming = pool.submit(make, step + 1)
            yield current
