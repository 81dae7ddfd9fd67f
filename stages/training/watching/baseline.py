"""What is usual of a figure: robust z-scores against its newest values, of losses and gradient norms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from orchestrator.artifact import JSON

WINDOW = 100  # newest steps that say what is usual
MIN_STEPS = 20  # before which nothing counts as unusual
MAD_TO_SIGMA = 1.4826  # median absolute deviation of a normal distribution, to its standard deviation
LEAST_SPREAD = 0.01  # of a loss, over its median: a loss that hardly moves has no spikes of less than that
LEAST_LOG_SPREAD = 0.05  # of the logarithm of a gradient norm

BASELINES = "baselines"  # key in the facts of a checkpoint


def robust_z(value: float, history: Sequence[float], *, least_spread: float) -> float:
    """By how many robust standard deviations a value is above the median of the history; 0 if it is not above."""
    middle = median(history)
    spread = MAD_TO_SIGMA * median(abs(found - middle) for found in history)
    return max(0.0, (value - middle) / max(spread, least_spread))


@dataclass
class Baseline:
    """The newest losses and gradient norms of a pass. Only finite values are given to it."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def score(self, loss: float, norm: float) -> tuple[float, float]:
        """The z-scores of a loss and of the logarithm of a gradient norm; 0 while too little is known."""
        if len(self.losses) < MIN_STEPS:
            return 0.0, 0.0
        least = LEAST_SPREAD * abs(median(self.losses)) or LEAST_SPREAD
        of_loss = robust_z(loss, self.losses, least_spread=least)
        of_norm = robust_z(_log(norm), [_log(found) for found in self.norms], least_spread=LEAST_LOG_SPREAD)
        return of_loss, of_norm

    def add(self, loss: float, norm: float) -> None:
        self.losses = [*self.losses[1 - WINDOW :], loss]
        self.norms = [*self.norms[1 - WINDOW :], norm]


def _log(norm: float) -> float:
    return math.log(max(norm, 1e-30))


class Baselines:
    """The baselines of all passes. Saved with each checkpoint, so that a training that continues judges alike."""

    def __init__(self, saved: JSON = None) -> None:
        self._by_pass = {name: _read(values) for name, values in saved.items()} if isinstance(saved, Mapping) else {}

    def of(self, pass_name: str) -> Baseline:
        return self._by_pass.setdefault(pass_name, Baseline())

    def to_json(self) -> dict[str, JSON]:
        return {
            name: {"losses": list(found.losses), "norms": list(found.norms)} for name, found in self._by_pass.items()
        }


def _read(values: JSON) -> Baseline:
    def numbers(key: str) -> list[float]:
        found = values.get(key) if isinstance(values, Mapping) else None
        return [float(str(value)) for value in found] if isinstance(found, list) else []

    return Baseline(losses=numbers("losses"), norms=numbers("norms"))
