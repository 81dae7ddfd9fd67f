"""Which items of a shard make it fail: decided from the results of trial runs on parts of the shard.

Pure: the search asks for trials and is told how they went, so it neither knows nor cares where they run.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrialFailure:
    reason: str  # stable text: becomes part of the durable record
    signature: tuple[str, str]  # class of the error and where it was raised
    died: bool = False  # the worker process did not survive (or hung), so the cause may lie outside the item


Trial = tuple[int, ...]  # positions of the items to run
Search = Generator[Trial, TrialFailure | None, dict[int, TrialFailure]]


def find_poison(num_items: int) -> Search:
    """Yields trials, is sent None or the failure of each, returns the failing positions.

    Halves a failing part until single items are left: about 2 * p * log2(n) trials for p failing items. A single
    item whose trial killed the process is tried once more, because the process may have died for another reason. A
    part that fails although both of its halves work is not poison and adds nothing.
    """
    poison: dict[int, TrialFailure] = {}
    # The whole shard has failed already, so it is not tried again.
    pending: list[Trial] = _halves(tuple(range(num_items))) if num_items > 1 else [(0,)]
    while pending:
        part = pending.pop(0)
        failure = yield part
        if failure is not None and failure.died and len(part) == 1:
            failure = yield part
        if failure is None:
            continue
        if len(part) == 1:
            poison[part[0]] = failure
        else:
            pending[:0] = _halves(part)
    return dict(sorted(poison.items()))


def _halves(part: Trial) -> list[Trial]:
    middle = len(part) // 2
    return [part[:middle], part[middle:]]


def spread(num_items: int, num_wanted: int) -> list[int]:
    """At most `num_wanted` positions, the first and the last among them, evenly spread over `num_items`."""
    if num_items <= num_wanted:
        return list(range(num_items))
    return sorted({round(index * (num_items - 1) / (num_wanted - 1)) for index in range(num_wanted)})


def all_alike(failures: Sequence[TrialFailure | None]) -> bool:
    """True if every trial failed, with one class of error at one place: then the code is at fault, not the data."""
    return bool(failures) and None not in failures and len({f.signature for f in failures if f is not None}) == 1
