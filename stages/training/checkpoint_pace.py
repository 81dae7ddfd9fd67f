"""When to make the next checkpoint: as often as it pays, by what one costs and how often something fails.

Young, A first order approximation to the optimum checkpoint interval (CACM 17, 1974). The further terms of Daly, A
higher order estimate of the optimum checkpoint interval for restart dumps (FGCS 22, 2006), change it by less than 5%
while a checkpoint costs less than 1% of the time between two failures.
"""

import math
import time
from collections.abc import Callable

from orchestrator.stage import RetryPolicy

# Between two ends of an attempt that are not its own: one a day of any sort (a node taken back, maintenance, a person),
# and one in 10,000 hours of each worker. Llama 3 (2024) counts 419 in 54 days on 16,384 GPUs, one in 50,000 GPU hours,
# on a cluster that was looked after day and night.
STAGE_UPTIME_S = 24 * 3600.0
WORKER_UPTIME_S = 10_000 * 3600.0
FIRST_S = 60.0  # until the first checkpoint of an attempt, which measures what one costs
MAX_S = 3600.0  # nobody likes to lose more than an hour, however cheap that is
SHARE_OF_WRITING = 0.5  # of the time at most: the rest of it the store and the network belong to others


def mean_uptime_s(workers: int) -> float:
    """Seconds between two failures of a stage of so many workers, where nothing better is known: 512 of them: 11 h."""
    return 1 / (1 / STAGE_UPTIME_S + workers / WORKER_UPTIME_S)


def best_interval_s(*, stall_s: float, write_s: float, uptime_s: float) -> float:
    """Seconds between two checkpoints.

    `stall_s` is what one holds the training up, `write_s` how long it is written behind it, `uptime_s` the mean time
    between failures. Never shorter than it takes to write the one before.
    """
    best = min(math.sqrt(2 * stall_s * uptime_s), uptime_s, MAX_S)
    return max(best, write_s / SHARE_OF_WRITING)


class Pace:
    """Decides on one worker, for all of them, after which steps the state is kept. Changes nothing that is trained."""

    def __init__(self, retry: RetryPolicy, *, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = retry.checkpoint_every, clock
        self._uptime_s = retry.mean_uptime_h * 3600 or mean_uptime_s(workers)
        self._stall_s = self._write_s = 0.0
        self._saved_at = clock()
        self.interval_s = FIRST_S

    def is_due(self, step: int, *, writing: bool) -> bool:
        """`writing`: the checkpoint before is still under way."""
        if self._every:
            return step % self._every == 0
        return not writing and self._clock() - self._saved_at >= self.interval_s

    def saved(self, *, stall_s: float) -> None:
        self._saved_at, self._stall_s = self._clock(), stall_s
        self._measure()

    def written(self, write_s: float) -> None:
        self._write_s = write_s
        self._measure()

    def _measure(self) -> None:
        self.interval_s = best_interval_s(stall_s=self._stall_s, write_s=self._write_s, uptime_s=self._uptime_s)
