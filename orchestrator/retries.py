"""Whether a failed stage is tried again, when, and how differently. Deciding is pure; the executor carries it out."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.failures import FailureClass
from orchestrator.stage import RetryPolicy

MAX_WAIT_S = 300.0

# Not the stage's fault, so they cost it nothing.
_UNLIMITED = {FailureClass.PREEMPTED, FailureClass.CAPACITY, FailureClass.CONTROLLER_LOST}
_LIMITED = {
    FailureClass.NODE_LOST,
    FailureClass.HOST_OOM,
    FailureClass.GPU_OOM,
    FailureClass.INFRA_TRANSIENT,
    FailureClass.HANG,
}
_OUT_OF_MEMORY = {FailureClass.HOST_OOM, FailureClass.GPU_OOM}


@dataclass(frozen=True, kw_only=True)
class PastFailure:
    """One failed attempt of a stage."""

    failure: FailureClass
    progressed: bool  # it committed a shard or a checkpoint before it failed


@dataclass(frozen=True, kw_only=True)
class Retry:
    wait_s: float
    memory_halvings: int = 0  # how often what is held at once must be halved, since the first attempt


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    message: str


def decide(history: Sequence[PastFailure], policy: RetryPolicy, *, rng: random.Random) -> Retry | GiveUp:
    """What to do after the last failure of `history` (all failed attempts of one stage in one run, oldest first).

    Each class has `policy.attempts` tries; preemption, missing capacity and a lost driver are not counted. An attempt
    that made durable progress gives every class its full budget again: time does not. An unknown error is once taken
    for trouble of the infrastructure, after that for a mistake in the code. Out of memory asks for half of what is
    held at once, on top of earlier halvings, which progress does not take back.
    """
    last = history[-1].failure
    counted = _since_progress(history)
    same = sum(past.failure is last for past in counted)
    halvings = sum(past.failure in _OUT_OF_MEMORY for past in history)
    if last in _UNLIMITED:
        return Retry(wait_s=backoff_s(same, policy.wait_s, rng=rng), memory_halvings=halvings)
    if last is FailureClass.UNKNOWN and same == 1 and policy.attempts > 1:
        return Retry(wait_s=backoff_s(1, policy.wait_s, rng=rng), memory_halvings=halvings)
    if last in _LIMITED and same < policy.attempts:
        return Retry(wait_s=backoff_s(same, policy.wait_s, rng=rng), memory_halvings=halvings)
    if last in _LIMITED:
        return GiveUp(message=f"{last}: {same} of {policy.attempts} tries used without progress in between")
    return GiveUp(message=f"{last}: trying again would not help" if same == 1 else f"{last}: it happened again")


def _since_progress(history: Sequence[PastFailure]) -> Sequence[PastFailure]:
    """The failures that count: the last one, and those before it back to the last attempt that made progress.

    The attempt that progressed begins a fresh budget, so its own failure is the first that counts.
    """
    for index in range(len(history) - 1, -1, -1):
        if history[index].progressed:
            return history[index:]
    return history


def backoff_s(failures: int, first_s: float, *, rng: random.Random) -> float:
    """`first_s` after the first failure, doubled for each further one, at most 300 s; then 50 to 100% of that."""
    return min(first_s * 2.0 ** min(failures - 1, 30), MAX_WAIT_S) * (0.5 + 0.5 * rng.random())
