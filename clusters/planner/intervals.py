"""How often to write a checkpoint, and what failures cost. Sources: Young (1974), Daly (2006).

Times are seconds. The mean time between failures of a run is that of one accelerator divided by their number.
"""

import math
from dataclasses import dataclass

HOURS_BETWEEN_FAILURES = 50_677.0  # of one accelerator: 16,384 H100 for 54 days, 419 failures (arXiv 2407.21783)


def young_s(write_s: float, mean_between_s: float) -> float:
    return math.sqrt(2 * write_s * mean_between_s)


def daly_s(write_s: float, mean_between_s: float) -> float:
    """The higher-order interval; for a write that takes longer than twice the mean, that mean."""
    if write_s >= 2 * mean_between_s:
        return mean_between_s
    ratio = write_s / (2 * mean_between_s)
    return young_s(write_s, mean_between_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - write_s


def waste_share(interval_s: float, *, write_s: float, restart_s: float, mean_between_s: float) -> float:
    """Share of the time that is not training: writing, and for each failure half a cycle again and one restart.

    A cycle is an interval of training and the write after it.
    """
    cycle = interval_s + write_s
    return write_s / cycle + (cycle / 2 + restart_s) / mean_between_s


@dataclass(frozen=True, kw_only=True)
class FailureModel:
    """Failures and preemptions are independent; each loses half an interval and one restart."""

    hours_between_failures: float = HOURS_BETWEEN_FAILURES  # of one accelerator
    preemptions_per_day: float = 0.0  # of the whole run, on machines that can be taken away
    restart_s: float = 300.0

    def __post_init__(self) -> None:
        if self.hours_between_failures <= 0 or self.preemptions_per_day < 0 or self.restart_s < 0:
            raise ValueError(f"failures: {self}; expected hours above 0, and no negative rate or time")

    def mean_between_s(self, accelerators: int) -> float:
        rate = accelerators / (self.hours_between_failures * 3600) + self.preemptions_per_day / 86_400
        return 1 / rate if rate else math.inf
