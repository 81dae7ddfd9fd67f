"""The workers of a training compared with one another: how long each needs for its own part of a step.

A step ends for all workers at the same time, since they wait for one another. So what is compared is what a worker does
before that: it waits for its data and computes the forward pass, in which a data-parallel training exchanges nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low

import torch
import torch.distributed as dist

from stages.training.agreement import WorkerRank
from stages.training.step_line import process_memory_gib

MIN_WORKERS = 3  # of fewer, nobody can say which one is unusual
LEAST_EXCESS_S = 0.005  # a step that is longer by less is not worth a line


@dataclass(frozen=True, kw_only=True)
class WorkerFigures:
    """Of one worker, means over the steps since the last comparison."""

    own_s: float  # of a step that do not depend on other workers
    data_wait_s: float  # of them, spent waiting for data
    memory_gib: float  # most so far

    def to_list(self) -> list[float]:
        return [self.own_s, self.data_wait_s, self.memory_gib]


def memory_gib(worker: WorkerRank) -> float:
    """The most memory so far: of the worker's GPU, else of its process."""
    if worker.device.type == "cuda":
        return torch.cuda.max_memory_allocated(worker.device) / 1024**3
    return process_memory_gib()


def gather_figures(own: WorkerFigures, worker: WorkerRank) -> list[WorkerFigures]:
    """The figures of all workers, by rank. Called by all at once."""
    if worker.world_size == 1:
        return [own]
    values = torch.tensor(own.to_list(), dtype=torch.float64, device=worker.device)
    of_all = [torch.zeros_like(values) for _ in range(worker.world_size)]
    dist.all_gather(of_all, values)
    return [
        WorkerFigures(own_s=own_s, data_wait_s=wait_s, memory_gib=memory_gib)
        for own_s, wait_s, memory_gib in torch.stack(of_all).tolist()
    ]


def compared_metrics(figures: Sequence[WorkerFigures]) -> dict[str, float]:
    """The metrics of a comparison: the median and the slowest worker, and the most that any needs."""
    own_s = [found.own_s for found in figures]
    slowest = own_s.index(max(own_s))
    return {
        "workers/own_step_s_median": median_low(own_s),
        "workers/own_step_s_slowest": own_s[slowest],
        "workers/slowest": float(slowest),
        "workers/data_wait_s_most": max(found.data_wait_s for found in figures),
        "workers/memory_gib_most": max(found.memory_gib for found in figures),
    }


@dataclass
class Stragglers:
    """Names a worker that was slower than the median in some comparisons in a row, once until it catches up."""

    share: float  # slower than the median by more than this
    window: int  # comparisons in a row
    _in_a_row: dict[int, int] = field(default_factory=dict)

    def judge(self, figures: Sequence[WorkerFigures]) -> list[int]:
        """The ranks to be named after this comparison."""
        if len(figures) < MIN_WORKERS:
            return []
        usual_s = median_low([found.own_s for found in figures])
        limit_s = max(usual_s * (1 + self.share), usual_s + LEAST_EXCESS_S)
        self._in_a_row = {
            rank: self._in_a_row.get(rank, 0) + 1 for rank, found in enumerate(figures) if found.own_s > limit_s
        }
        return [rank for rank, count in self._in_a_row.items() if count == self.window]
