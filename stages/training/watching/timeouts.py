"""Three times after which a training that makes no progress is looked at, each shorter than the next.

First the driver takes stacks, while everything still runs. Then a collective operation that waits gives up, which ends
its worker with an error. Last the driver kills what is left. So the evidence is there before anything is destroyed.
"""

import re

SUSPECT_SHARE = 0.5  # of `retry.hang_after_s`: stacks are taken and compared
COLLECTIVE_SHARE = 0.8  # of it: a collective operation gives up
LEAST_COLLECTIVE_S = 60.0  # workers that start and load do not arrive at the same time

_GAVE_UP = re.compile(
    r"collective operation timeout|timed out waiting \d+ ?ms|watchdog caught collective|ncclhangerror", re.IGNORECASE
)


def suspect_after_s(hang_after_s: float) -> float:
    return SUSPECT_SHARE * hang_after_s


def collective_timeout_s(hang_after_s: float) -> float:
    return max(LEAST_COLLECTIVE_S, COLLECTIVE_SHARE * hang_after_s)


def is_collective_timeout(text: str) -> bool:
    """Whether an error says that a collective operation gave up waiting for another worker."""
    return bool(_GAVE_UP.search(text))
