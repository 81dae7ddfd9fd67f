"""Carries out inquiries on the pool: checks of processes, and hearings of items that were found to fail."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from orchestrator.failures.classes import FailureReport
from orchestrator.failures.failure_class import FailureClass
from orchestrator.shard_map.bisection import trial_failure
from orchestrator.shard_map.pending import Inquiry, Witnesses, WorkItem
from orchestrator.shard_map.verdicts import StepResult, Verdict
from orchestrator.shard_map.worker_pool import CallResult, WorkerPool
from orchestrator.shards import FailedTry, Quarantined

TRANSIENT = {FailureClass.INFRA_TRANSIENT, FailureClass.GPU_OOM, FailureClass.CAPACITY}
_SAYS_NOTHING = TRANSIENT | {FailureClass.PREEMPTED}  # about an item


class OnChecked(Protocol):
    def __call__(self, inquiry: Inquiry, *, works: bool) -> None: ...


class Inquiries:
    """The running inquiries of one map. A step for one process follows its predecessor there at once."""

    def __init__(
        self,
        pool: WorkerPool[WorkItem],
        witnesses: Witnesses,
        *,
        push: Callable[[WorkItem], None],
        submit: Callable[[WorkItem, int], None],
        on_checked: OnChecked,
        on_verdict: Callable[[Inquiry, Verdict], None],
    ) -> None:
        self._pool, self._witnesses = pool, witnesses
        self._push, self._submit = push, submit
        self._on_checked, self._on_verdict = on_checked, on_verdict

    def begin(self, inquiry: Inquiry) -> None:
        self._next(inquiry, None)

    def add_result(self, work_item: WorkItem, inquiry: Inquiry, result: CallResult[WorkItem]) -> None:
        """Go on with the inquiry whose step has ended."""
        report = result.error
        if report is None:
            self._witnesses.add(work_item.pending, work_item.positions)
        inquiry.last_place = result.place
        failure = trial_failure(report, died=result.died) if report else None
        says_nothing = result.node_died or (report is not None and report.failure in _SAYS_NOTHING)
        alive = self._pool.is_idle(result.process)
        self._next(
            inquiry,
            StepResult(
                process=result.process, place=result.place, failure=failure, alive=alive, is_evidence=not says_nothing
            ),
        )

    def _next(self, inquiry: Inquiry, result: StepResult | None) -> None:
        try:
            step = next(inquiry.steps) if result is None else inquiry.steps.send(result)
        except StopIteration as stop:
            if isinstance(stop.value, Verdict):
                self._on_verdict(inquiry, stop.value)
            else:
                self._on_checked(inquiry, works=stop.value)
            return
        witness = inquiry.witnesses[step.witness]
        pending, position = witness.pending, witness.position
        if step.suspect is not None:
            pending, position = inquiry.pending, step.suspect
        work_item = WorkItem(mode="step", pending=pending, positions=(position,), avoid=step.avoid, inquiry=inquiry)
        if step.process is None:
            self._push(work_item)
        elif self._pool.is_idle(step.process):
            self._submit(work_item, step.process)
        else:  # ended meanwhile, for example because the pool was made smaller
            self._next(
                inquiry, StepResult(process=step.process, place="", failure=None, alive=False, is_evidence=False)
            )


def quarantined_items(inquiry: Inquiry, verdict: Verdict, attempt: str) -> dict[int, Quarantined]:
    """The entries of the shard's record, by position, for the items that are poison."""
    found = {}
    for position, failures in verdict.poison.items():
        tries = []
        for failure in failures:
            witness = inquiry.witnesses[failure.witness]
            good = witness.pending.shard.items[witness.position]
            error = failure.failure.reason
            tries.append(FailedTry(attempt=attempt, process=failure.place, error=error, witness=good))
        item, reason = inquiry.pending.shard.items[position], failures[0].failure.reason
        found[position] = Quarantined(item=item, reason=reason, found_by="search", tries=tuple(tries))
    return found


def fault_of_environment(report: FailureReport, why: str) -> FailureReport:
    """The report of a failure that the items of the shard are not to blame for."""
    summary = f"{why}: {report.summary}"
    return replace(
        report, failure=FailureClass.INFRA_TRANSIENT, summary=summary, traceback=f"{why}:\n{report.traceback}"
    )
