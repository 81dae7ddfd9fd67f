"""The retry policy of stages: whether a failed stage is retried, when, and with how much memory.

Decisions are pure; the executor acts on them.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.failures.failure_class import FailureClass
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

# Advice for each class, written for an operator who did not write the recipe.
WHAT_TO_DO: dict[FailureClass, str] = {
    FailureClass.PREEMPTED: "nothing; the node was preempted, and the stage continues as soon as another is available",
    FailureClass.PRECHECK: "correct what the message names; the stage had not started any work",
    FailureClass.CONTROLLER_LOST: "nothing; `illume status` names the driver that runs it now",
    FailureClass.GPU_OOM: (
        "smaller micro-batches were already tried, down to the smallest; use GPUs with more memory, more GPUs, or "
        "smaller samples (resolution, length of the sequences)"
    ),
    FailureClass.HOST_OOM: (
        "fewer workers at once were already tried; use nodes with more memory, or set resources.memory_gib to what one "
        "worker needs"
    ),
    FailureClass.NUMERIC: (
        "look at the samples that the message names, or lower the learning rate; earlier checkpoints are kept"
    ),
    FailureClass.DATA_POISON: (
        "look at the reasons above and repair the items at the source; if this many bad items are expected, raise "
        "retry.max_quarantined_share"
    ),
    FailureClass.DATA: "repair or replace the input that the message names; what was committed from it before is kept",
    FailureClass.USER_CODE: "correct the configuration, the input or the code where the error above was raised",
    FailureClass.HANG: (
        "`illume logs` shows the stack of each worker; if the work is only slow, raise retry.hang_after_s above the "
        "time that it needs"
    ),
    FailureClass.CAPACITY: "nothing; the stage starts as soon as the cluster has the resources, or request fewer",
    FailureClass.NODE_LOST: (
        "check the nodes: worker processes disappear when the system is short of memory (`dmesg`), a disk or a GPU "
        "fails, or the node goes down"
    ),
    FailureClass.INFRA_TRANSIENT: "check that the store, network, disk or database that the message names is available",
    FailureClass.UNKNOWN: "probably a bug in the code or an error in the input; see the error above",
}
# Not caused by the stage, so they do not count against its tries.
_UNLIMITED = {
    FailureClass.PREEMPTED: "not counted: the node was preempted",
    FailureClass.CAPACITY: "not counted: the resources are not available now",
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
    reason: str  # shown to users: why there is another try, and how many are left
    memory_halvings: int  # how often the work held in memory at once is halved, counted from the first attempt


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    message: str
    what_to_do: str


def decide(history: Sequence[PastFailure], policy: RetryPolicy, *, rng: random.Random) -> Retry | GiveUp:
    """Retry or give up after the last failure of `history` (all failed attempts of a stage in a run, oldest first).

    Each class has `policy.attempts` tries; preemption, missing capacity and a lost driver are not counted. An attempt
    that made durable progress restores every class's full budget; time does not. An unknown error counts as a failure
    of the infrastructure the first time, and as a bug in the code after that. Running out of memory halves the work
    that is held in memory at once, in addition to earlier halvings; progress does not undo halvings.
    """
    last = history[-1].failure
    counted = _since_progress(history)
    num_same = sum(past.failure is last for past in counted)
    halvings = sum(past.failure in _OUT_OF_MEMORY for past in history)
    reason = _retry_reason(last, num_same, policy)
    if reason:
        return Retry(wait_s=backoff_s(num_same, policy.wait_s, rng=rng), reason=reason, memory_halvings=halvings)
    return GiveUp(message=f"{last}: {_give_up_reason(last, num_same, policy)}", what_to_do=WHAT_TO_DO[last])


def _retry_reason(last: FailureClass, num_same: int, policy: RetryPolicy) -> str:
    """Why the stage is retried; empty if the budget does not allow it."""
    if last in _UNLIMITED:
        return _UNLIMITED[last]
    if last is FailureClass.UNKNOWN and num_same == 1 and policy.attempts > 1:
        return "once, in case the infrastructure failed"
    if last in _LIMITED and num_same < policy.attempts:
        smaller = ", with half as much in memory at once" if last in _OUT_OF_MEMORY else ""
        return f"try {num_same + 1} of {policy.attempts}{smaller}"
    return ""


def _give_up_reason(last: FailureClass, num_same: int, policy: RetryPolicy) -> str:
    if last in _LIMITED or (policy.attempts == 1 and last is FailureClass.UNKNOWN):
        return f"{num_same} of {policy.attempts} tries used without progress in between"
    return "trying again would not help" if num_same == 1 else "it happened again"


def _since_progress(history: Sequence[PastFailure]) -> Sequence[PastFailure]:
    """The failures that count: the last one, and those before it back to the last attempt that made progress.

    The attempt that made progress starts a new budget, so its own failure is the first that counts.
    """
    for index in range(len(history) - 1, -1, -1):
        if history[index].progressed:
            return history[index:]
    return history


def backoff_s(failures: int, first_s: float, *, rng: random.Random) -> float:
    """`first_s` after the first failure, doubled for each further one, at most 300 s; then 50 to 100% of that."""
    return min(first_s * 2.0 ** min(failures - 1, 30), MAX_WAIT_S) * (0.5 + 0.5 * rng.random())
