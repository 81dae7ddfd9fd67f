"""Bisection of a failing shard: finds the items that make it fail from trial runs on parts of the shard.

Pure: the generator yields the trials to run and receives their results; it does not run anything itself.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from orchestrator.failures.classes import FailureReport
from orchestrator.failures.failure_class import FailureClass

MAX_REASON_CHARACTERS = 400


@dataclass(frozen=True, kw_only=True)
class TrialFailure:
    reason: str  # stable text: becomes part of the durable record
    signature: tuple[str, str]  # class of the error and where it was raised
    died: bool = False  # the worker process died or hung, so the cause may lie outside the item


Trial = tuple[int, ...]  # positions of the items to run
Bisection = Generator[Trial, TrialFailure | None, dict[int, TrialFailure]]


def find_failing_items(num_items: int) -> Bisection:
    """A generator that yields trials, receives the failure of each, or None, and returns the failing positions.

    Halves a failing part until single items are left: about 2 * p * log2(n) trials for p failing items. A single
    item whose trial killed the process is tried once more, because the process may have died for another reason. A
    part that fails although both of its halves work adds no position.
    """
    failing: dict[int, TrialFailure] = {}
    # The whole shard has already failed, so the first trials are its halves.
    pending: list[Trial] = _halves(tuple(range(num_items))) if num_items > 1 else [(0,)]
    while pending:
        part = pending.pop(0)
        failure = yield part
        if failure is not None and failure.died and len(part) == 1:
            failure = yield part
        if failure is None:
            continue
        if len(part) == 1:
            failing[part[0]] = failure
        else:
            pending[:0] = _halves(part)
    return dict(sorted(failing.items()))


def _halves(part: Trial) -> list[Trial]:
    middle = len(part) // 2
    return [part[:middle], part[middle:]]


def evenly_spaced(num_items: int, num_wanted: int) -> list[int]:
    """At most `num_wanted` positions, evenly spaced over `num_items`, including the first and the last."""
    if num_items <= num_wanted:
        return list(range(num_items))
    return sorted({round(index * (num_items - 1) / (num_wanted - 1)) for index in range(num_wanted)})


def all_same_failure(failures: Sequence[TrialFailure | None]) -> bool:
    """True if every trial failed with the same class of error at the same line: the code is at fault, not the data."""
    return bool(failures) and None not in failures and len({f.signature for f in failures if f is not None}) == 1


def trial_failure(report: FailureReport, *, died: bool) -> TrialFailure:
    """The failure of a trial from the report of its call. `died`: the worker process is gone."""
    if report.failure is FailureClass.HANG:
        return TrialFailure(reason="no sign of life while working on it, twice", signature=("hang", ""), died=True)
    if died:
        return TrialFailure(reason="the worker process dies on it", signature=("died", ""), died=True)
    reason = f"{report.summary} ({report.place})" if report.place else report.summary
    return TrialFailure(reason=reason[:MAX_REASON_CHARACTERS], signature=report.signature)
