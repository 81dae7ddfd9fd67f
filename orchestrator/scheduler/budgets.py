"""Budgets: warns at 80 % and stops at a commit point at 100 %, per run, per user and for everybody in a month."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.history.database.database import Database
from orchestrator.queue.claims import ask_to_stop
from orchestrator.queue.entries import Entry, all_submissions, open_entries
from orchestrator.queue.records import Budget, Limits, Submission
from orchestrator.queue.rows import newest
from orchestrator.queue.spending import WARN_SHARE, AttemptCost, costs_of, share_spent, spent_text, total_of
from orchestrator.workspace import Workspace

LOOK_S = 20.0
EVERYBODY, USER = "all", "user:"

log = logging.getLogger(__name__)
Notify = Callable[[Workspace, str, str], None]  # what it is about, once for each; the text


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A budget that is spent to a share, and the open runs that it is about."""

    name: str  # `run X`, `user ada in 2026-11`, `everybody in 2026-11`
    share: float
    text: str
    run_ids: tuple[str, ...]


@dataclass(kw_only=True)
class BudgetWatcher:
    """Looks after all budgets."""

    notify: Notify
    _looked_at: float = float("-inf")
    _held: dict[str, str] | None = None

    def look(self, workspace: Workspace, now: float) -> dict[str, str]:
        """Stops runs whose budget is spent; returns those that may not start."""
        if now - self._looked_at < LOOK_S and self._held is not None:
            return self._held
        self._looked_at = now
        held: dict[str, str] = {}
        entries = open_entries(workspace.database)
        at_work = {entry.run_id for entry in entries if entry.state == "RUNNING"}
        for found in findings(workspace.database, entries, now):
            if found.share >= 1:
                reason = f"the budget of {found.name} is spent: {found.text}"
                held |= dict.fromkeys(found.run_ids, reason)
                self.notify(workspace, f"budget spent: {found.name}", reason)
                for run_id in at_work.intersection(found.run_ids):
                    _stop(workspace.database, run_id, reason, now)
            elif found.share >= WARN_SHARE:
                text = f"the budget of {found.name} is spent to {found.share:.0%}: {found.text}"
                self.notify(workspace, f"budget warning: {found.name}", text)
        self._held = held
        return held


def findings(database: Database, entries: Sequence[Entry], now: float) -> list[Finding]:
    """All budgets that concern runs in the queue."""
    budgets = {subject: found for subject, found in newest(database, Budget).items() if found.limits.is_set}
    limited = [entry for entry in entries if entry.submission.limits.is_set]
    if not budgets and not limited:
        return []
    submissions = all_submissions(database)
    found = [_of_run(entry, costs_of(database, submissions, runs=[entry.run_id])) for entry in limited]
    if budgets:
        at = datetime.fromtimestamp(now, UTC)
        month = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        costs = costs_of(database, submissions, since=month.timestamp())
        for subject, budget in budgets.items():
            found.append(_of_month(subject, budget.limits, f"{at:%Y-%m}", costs, submissions, entries))
    return found


def _of_run(entry: Entry, costs: Sequence[AttemptCost]) -> Finding:
    limits, spent = entry.submission.limits, total_of(costs)
    return Finding(
        name=f"run {entry.run_id}",
        share=share_spent(spent, limits),
        text=spent_text(spent, limits),
        run_ids=(entry.run_id,),
    )


def _of_month(
    subject: str,
    limits: Limits,
    month: str,
    costs: Sequence[AttemptCost],
    submissions: Mapping[str, Submission],
    entries: Sequence[Entry],
) -> Finding:
    person = subject.removeprefix(USER) if subject.startswith(USER) else None

    def concerns(submission: Submission | None) -> bool:
        return person is None or (submission is not None and submission.person == person)

    spent = total_of([cost for cost in costs if concerns(submissions.get(cost.run_id))])
    return Finding(
        name=f"{'everybody' if person is None else f'user {person}'} in {month}",
        share=share_spent(spent, limits),
        text=spent_text(spent, limits),
        run_ids=tuple(entry.run_id for entry in entries if concerns(entry.submission)),
    )


def _stop(database: Database, run_id: str, reason: str, now: float) -> None:
    log.warning("run %s: asked to stop: %s", run_id, reason)
    database.write(lambda connection: ask_to_stop(connection, run_id, reason, now))
