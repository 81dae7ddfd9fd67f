"""Validation on held-out data by the workers that train, between two steps.

It changes nothing: no gradient is made, running statistics and random states are put back. If it fails, that is told
with the worker, and training goes on.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from orchestrator.artifact import JSON
from stages.training.agreement import WorkerRank, gather_texts
from stages.training.program import MicroBatch, Pass, TrainingProgram, Validation, sources_of
from stages.training.step_sums import StepSums
from stages.training.strategies.strategy import Strategy
from stages.training.watching.notices import VALIDATION_FAILED, Notice, Notify
from stages.training.watching.verification import cuda_devices, unchanged_buffers

logger = logging.getLogger(__name__)

VALIDATION = "validation/"  # begins the names of its metrics
BEST = "best"  # key in the facts of a checkpoint


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best validation so far."""

    step: int  # steps done
    value: float

    def to_json(self) -> dict[str, JSON]:
        return {"step": self.step, "value": self.value}


def best_of(saved: Mapping[str, JSON]) -> Best | None:
    """As recorded with a checkpoint."""
    found = saved.get(BEST)
    if not isinstance(found, Mapping):
        return None
    return Best(step=int(str(found["step"])), value=float(str(found["value"])))


def validate(
    program: TrainingProgram,
    data: Validation,
    strategy: Strategy,
    *,
    step: int,
    max_micro_batches: int,
    worker: WorkerRank,
    notify: Notify,
) -> dict[str, float]:
    """The metrics of all passes on the same micro-batches each time; {} if it failed. Called by all workers at once."""
    count, problem = 0, ""
    micro_batches: list[MicroBatch] = []
    try:
        count = min(data.num_micro_batches, max_micro_batches)
        micro_batches = (
            [data.micro_batch(index).shared_by(worker.sequence_workers) for index in _own(count, worker)]
            if count
            else []
        )
    except Exception as error:
        logger.exception("validation after step %d: its data cannot be read", step)
        problem = f"{type(error).__name__}: {error}"
    problems = gather_texts(problem, worker)
    if any(problems) or not count:
        if worker.rank == 0 and any(problems):
            found = "; ".join(f"worker {rank}: {text}" for rank, text in enumerate(problems) if text)
            fields = {"step": step, "message": f"the validation after step {step} failed, training goes on: {found}"}
            notify(Notice(kind=VALIDATION_FAILED, fields=fields))
        return {}
    metrics: dict[str, float] = {}
    with unchanged_buffers(program.weights.values()), torch.random.fork_rng(cuda_devices(worker)):
        for training_pass in program.passes:
            if step >= training_pass.first_step:
                sums = _sums(program, strategy, training_pass, micro_batches, step, count, worker)
                means = {name: value / weight for name, (value, weight) in sums.items() if weight}
                metrics |= {f"{VALIDATION}{training_pass.name}/{name}": mean for name, mean in means.items()}
    return metrics


def _own(count: int, worker: WorkerRank) -> list[int]:
    """The micro-batches of this worker; all have as many, and what a worker has too many counts for nothing."""
    rounds = -(-count // worker.data_workers)
    return [(worker.data_rank + number * worker.data_workers) % count for number in range(rounds)]


def _sums(
    program: TrainingProgram,
    strategy: Strategy,
    training_pass: Pass,
    micro_batches: Sequence[MicroBatch],
    step: int,
    count: int,
    worker: WorkerRank,
) -> dict[str, tuple[float, float]]:
    """Sum and weight of each metric over all workers."""
    sums = StepSums(sources=sources_of(program))
    with in_eval_mode(training_pass.module):
        for number, micro_batch in enumerate(micro_batches):
            output = strategy.evaluate(training_pass, micro_batch, step=step)
            index = worker.data_rank + number * worker.data_workers
            if index < count:
                sums.add(index, micro_batch, output)
    own = dict(zip(sums.names, sums.total().tolist(), strict=True))
    total: dict[str, tuple[float, float]] = {}
    for text in gather_texts(json.dumps(own), worker):
        for name, (value, weight) in json.loads(text).items():
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + value, before[1] + weight)
    return total


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Each part is afterwards in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
