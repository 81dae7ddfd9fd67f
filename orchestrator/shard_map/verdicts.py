"""Verdicts on items that a search found to fail: poison, or the fault of a process or of the environment.

An item counts as poison once it failed in two processes, each of which had just worked on a known-good item of the same
map (the witness) and, if it still lived, could do so afterwards. Pure: the generator yields the calls to make and
receives their results; it does not run anything itself.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from orchestrator.shard_map.bisection import TrialFailure

NUM_PROCESSES = 2  # in which an item has to fail
MAX_WITNESSES = 3  # known-good items that are tried in one process
MAX_LOST_PROCESSES = 5  # of one hearing, for reasons that say nothing about the items


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call: a suspect, or a witness by its number."""

    suspect: int | None = None  # position of the item
    witness: int = 0  # if `suspect` is None
    process: int | None = None  # the process to run it in; None: any one that is not in `avoid`
    avoid: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class StepResult:
    process: int
    place: str  # of the process, for the record: "pid 71 on node-3"
    failure: TrialFailure | None
    alive: bool = True
    is_evidence: bool = True  # False: the node died, or the process was taken away


@dataclass(frozen=True, kw_only=True)
class SoundFailure:
    """A failure of an item in a process that had just worked on the witness."""

    place: str
    failure: TrialFailure
    witness: int


@dataclass(kw_only=True)
class Verdict:
    """The result of a hearing. `poison`: the failures of each item that is at fault."""

    poison: dict[int, list[SoundFailure]] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)  # processes that could not work on a known-good item
    unsound: TrialFailure | None = None  # no process could work on a known-good item, so nothing is known


Hearing = Generator[Step, StepResult, Verdict]
ProcessCheck = Generator[Step, StepResult, bool]


def hear(suspects: Sequence[int], num_witnesses: int) -> Hearing:
    """A generator that yields calls, receives their results, and returns the verdict on the suspects."""
    verdict, tried = Verdict(), set[int]()
    found: dict[int, list[SoundFailure]] = {suspect: [] for suspect in suspects}
    for number in range(NUM_PROCESSES):
        used = set[int]()
        for suspect in suspects:
            if len(found[suspect]) == number:  # it failed in every process so far
                failed = yield from _try(suspect, num_witnesses, verdict, avoid=tried, used=used)
                if verdict.unsound is not None:
                    return verdict
                found[suspect] += [failed] if failed else []
        tried |= used
    verdict.poison = {suspect: failures for suspect, failures in found.items() if len(failures) == NUM_PROCESSES}
    return verdict


def _try(
    suspect: int, num_witnesses: int, verdict: Verdict, *, avoid: set[int], used: set[int]
) -> Generator[Step, StepResult, SoundFailure | None]:
    """One sound failure of the suspect; None if it works. `used` collects the processes that it ran in."""
    for _ in range(MAX_LOST_PROCESSES):
        before = yield from _working_process(num_witnesses, verdict, avoid=avoid)
        if before is None:
            return None
        process, witness = before
        result = yield Step(suspect=suspect, process=process)
        if not result.is_evidence:
            continue
        if result.failure is None:
            return None
        used.add(process)
        if (yield from _is_its_fault(result, process, witness, num_witnesses, verdict, avoid=avoid)):
            return SoundFailure(place=result.place, failure=result.failure, witness=witness)
        if verdict.unsound is not None:
            return None
    verdict.unsound = TrialFailure(reason="its processes disappear with their nodes", signature=("died", ""), died=True)
    return None


def _is_its_fault(
    result: StepResult, process: int, witness: int, num_witnesses: int, verdict: Verdict, *, avoid: set[int]
) -> Generator[Step, StepResult, bool]:
    """Whether the failure says something about the item: the witness works right after it, or it broke the process."""
    if result.alive:
        after = yield Step(witness=witness, process=process)
        if after.failure is None and after.is_evidence:
            return True
    # The item ended or broke the process, or the environment failed at that moment: ask elsewhere, then here again.
    if (yield from _working_process(num_witnesses, verdict, avoid=avoid | {process})) is None:
        return False
    if not result.alive:
        return True
    again = yield Step(witness=witness, process=process)
    if again.failure is None and again.is_evidence:
        return False
    verdict.broken.add(process)  # or it had to make room for the other one
    return True


def check_process(process: int, num_witnesses: int) -> ProcessCheck:
    """Whether a process in which something failed still works on known-good items."""
    for witness in range(min(num_witnesses, MAX_WITNESSES)):
        result = yield Step(witness=witness, process=process)
        if result.failure is None or not result.is_evidence:
            return True
        if not result.alive:
            return False
    return num_witnesses == 0


def _working_process(
    num_witnesses: int, verdict: Verdict, *, avoid: set[int]
) -> Generator[Step, StepResult, tuple[int, int] | None]:
    """A process that works on a witness just now, and the witness; None, and `unsound` is set, if none does."""
    last: TrialFailure | None = None
    num_broken = 0
    for _ in range(MAX_LOST_PROCESSES):
        process: int | None = None
        for witness in range(min(num_witnesses, MAX_WITNESSES)):
            result = yield Step(witness=witness, process=process, avoid=frozenset(avoid | verdict.broken))
            if result.failure is None and result.is_evidence:
                return result.process, witness
            process = result.process
            last = result.failure or last
            if not (result.alive and result.is_evidence):
                break
        if process is not None and result.is_evidence:
            verdict.broken.add(process)
            num_broken += 1
        if num_broken == NUM_PROCESSES:
            break
    verdict.unsound = last or TrialFailure(reason="no process works on a known-good item", signature=("lost", ""))
    return None
