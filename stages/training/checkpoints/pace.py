"""Decides when to make the next checkpoint, from the measured cost of one and the mean time between failures.

Source: Young, A first order approximation to the optimum checkpoint interval (CACM 17, 1974). The further terms of
Daly, A higher order estimate of the optimum checkpoint interval for restart dumps (FGCS 22, 2006), change the interval
by less than 5% while a checkpoint costs less than 1% of the time between two failures.
"""

import math
import time
from collections.abc import Callable

from orchestrator.stage import RetryPolicy

# Mean time between interruptions of an attempt from outside: one a day for any stage (preemption, maintenance, a
# person), and one in 10,000 hours for each worker. Llama 3 (2024) reports 419 in 54 days on 16,384 GPUs, one in 50,000
# GPU hours, on a cluster with operators day and night.
STAGE_UPTIME_S = 24 * 3600.0
WORKER_UPTIME_S = 10_000 * 3600.0
FIRST_S = 60.0  # until the first checkpoint of an attempt, which measures what one costs
MAX_S = 3600.0  # at most an hour of work is lost, however cheap that hour is
SHARE_OF_WRITING = 0.5  # of the time at most; for the rest, the store and the network are free for others


def mean_uptime_s(workers: int) -> float:
    """Estimated seconds between two failures of a stage, for use where none is configured; 11 h for 512 workers."""
    return 1 / (1 / STAGE_UPTIME_S + workers / WORKER_UPTIME_S)


def best_interval_s(*, stall_s: float, write_s: float, uptime_s: float) -> float:
    """Seconds between two checkpoints that minimise the time lost; long enough that writing takes half of it at most.

    `stall_s`: how long one checkpoint stops the training; `write_s`: how long it is written in the background;
    `uptime_s`: mean time between failures.
    """
    best = min(math.sqrt(2 * stall_s * uptime_s), uptime_s, MAX_S)
    return max(best, write_s / SHARE_OF_WRITING)


class CheckpointPace:
    """Decides on rank 0 after which steps a checkpoint is made. Has no influence on what is trained."""

    def __init__(self, retry: RetryPolicy, *, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = retry.checkpoint_every, clock
        self._uptime_s = retry.mean_uptime_h * 3600 or mean_uptime_s(workers)
        self._stall_s = self._write_s = 0.0
        self._saved_at = clock()
        self.interval_s = FIRST_S

    def is_due(self, step: int, *, is_writing: bool) -> bool:
        """Whether to make a checkpoint after this step. `is_writing`: the previous one is still being written."""
        if self._every:
            return step % self._every == 0
        return not is_writing and self._clock() - self._saved_at >= self.interval_s

    def record_stall(self, stall_s: float) -> None:
        """A checkpoint was taken just now and stopped the training for this long."""
        self._saved_at, self._stall_s = self._clock(), stall_s
        self._update_interval()

    def record_write(self, write_s: float) -> None:
        """Writing a checkpoint in the background took this long."""
        self._write_s = write_s
        self._update_interval()

    def _update_interval(self) -> None:
        self.interval_s = best_interval_s(stall_s=self._stall_s, write_s=self._write_s, uptime_s=self._uptime_s)
