"""Whether a failed stage is tried again, when, and how differently. Deciding is pure; the executor carries it out."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.failures.classes import FailureClass
from orchestrator.stage import RetryPolicy

MAX_WAIT_S = 300.0

_LIMITED = {
    FailureClass.NODE_LOST,
    FailureClass.HOST_OOM,
    FailureClass.GPU_OOM,
    FailureClass.INFRA_TRANSIENT,
    FailureClass.HANG,
}
_OUT_OF_MEMORY = {FailureClass.HOST_OOM, FailureClass.GPU_OOM}

# What a person can do, read at night by somebody who did not write the recipe.
WHAT_TO_DO: dict[FailureClass, str] = {
    FailureClass.PREEMPTED: "nothing; the node was taken back, and the stage goes on as soon as there is another",
    FailureClass.PRECHECK: "correct what the message names; the work of this stage had not begun",
    FailureClass.CONTROLLER_LOST: "nothing; `illume status` names the driver that carries the run out now",
    FailureClass.GPU_OOM: (
        "smaller micro-batches were tried already, as far as they can be cut; use GPUs with more memory, more of them, "
        "or less in one sample (resolution, length of the sequences)"
    ),
    FailureClass.HOST_OOM: (
        "fewer workers at once were tried already; use nodes with more memory, or say in resources.memory_gib what one "
        "worker needs"
    ),
    FailureClass.NUMERIC: (
        "look at the samples that the message names, or lower the learning rate; the checkpoints from before are kept"
    ),
    FailureClass.DATA_POISON: (
        "look at the reasons above and repair the items at the source; if so many bad ones are to be expected, raise "
        "retry.max_quarantined_share"
    ),
    FailureClass.USER_CODE: "correct the configuration, the input or the code where the error above was raised",
    FailureClass.HANG: (
        "`illume logs` shows where each worker stood; if the work is only slow, raise retry.hang_after_s above the "
        "time that it needs"
    ),
    FailureClass.CAPACITY: "nothing; the stage starts as soon as the cluster has what it asks for, or ask for less",
    FailureClass.NODE_LOST: (
        "look at the nodes: worker processes vanish when the system is short of memory (`dmesg`), a disk or a GPU "
        "fails, or the node goes down"
    ),
    FailureClass.INFRA_TRANSIENT: "see whether the store, network, disk or database that the message names answers",
    FailureClass.UNKNOWN: "read the error above as a mistake in the code or in the input",
}
# Not the stage's fault, so they cost it nothing.
_UNLIMITED = {
    FailureClass.PREEMPTED: "not counted: the node was taken back",
    FailureClass.CAPACITY: "not counted: what it asks for is not there now",
    FailureClass.CONTROLLER_LOST: "not counted: its driver was lost",
}


@dataclass(frozen=True, kw_only=True)
class PastFailure:
    """One failed attempt of a stage."""

    failure: FailureClass
    progressed: bool  # it committed a shard or a checkpoint before it failed


@dataclass(frozen=True, kw_only=True)
class Retry:
    wait_s: float
    why: str  # for people: what it costs of the budget
    memory_halvings: int = 0  # how often what is held at once must be halved, since the first attempt


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    message: str
    what_to_do: str


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
    why = _why_again(last, same, policy)
    if why:
        return Retry(wait_s=backoff_s(same, policy.wait_s, rng=rng), why=why, memory_halvings=halvings)
    return GiveUp(message=f"{last}: {_why_not(last, same, policy)}", what_to_do=WHAT_TO_DO[last])


def _why_again(last: FailureClass, same: int, policy: RetryPolicy) -> str:
    """Empty: the budget does not allow it."""
    if last in _UNLIMITED:
        return _UNLIMITED[last]
    if last is FailureClass.UNKNOWN and same == 1 and policy.attempts > 1:
        return "once, in case it was the infrastructure"
    if last in _LIMITED and same < policy.attempts:
        smaller = ", with half of what is held at once" if last in _OUT_OF_MEMORY else ""
        return f"try {same + 1} of {policy.attempts}{smaller}"
    return ""


def _why_not(last: FailureClass, same: int, policy: RetryPolicy) -> str:
    if last in _LIMITED or (policy.attempts == 1 and last is FailureClass.UNKNOWN):
        return f"{same} of {policy.attempts} tries used without progress in between"
    return "trying again would not help" if same == 1 else "it happened again"


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
