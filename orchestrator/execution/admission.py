"""Admission of the stages of one run: room on a cluster that runs share, and the word of a person where one is needed.

Asked before a stage starts; an empty answer lets it start. Rule: admission decides when, never whether or what.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.cluster.capacity import NodeCapacity
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.history.database.database import Database
from orchestrator.planning.plan import PlannedStage
from orchestrator.queue.amounts import Amounts, need_of
from orchestrator.queue.claims import Claims, Pool, forget_stop, stop_reason
from orchestrator.queue.entries import asked_at, priority_of, submission_of
from orchestrator.queue.order import Request
from orchestrator.queue.records import A_PERSON, Approval, current_person
from orchestrator.queue.rows import newest_of

ASK_S = 1.0  # between two questions about one stage
RENEW_S = 15.0


@dataclass(kw_only=True)
class Admission:
    """What holds the stages of a run back. Used by the driver's thread alone."""

    run_id: str
    database: Database
    claims: Claims | None  # None: the stages share no cluster with other runs, or its own queue decides
    person: str
    priority: int = 0
    asked_at: float = 0.0
    is_queued: bool = False  # the run is continued by a server after it made room
    clock: Callable[[], float] = time.monotonic
    _answers: dict[str, tuple[float, str]] = field(
        default_factory=dict
    )  # by stage: when it was asked, and why it waits
    _renewed_at: float = 0.0

    def why_not(self, stage: PlannedStage, *, is_at_work: bool = False) -> str:
        """Why the stage may not start yet; empty: it may. `is_at_work`: its job goes on, whatever is free."""
        asked_at, answer = self._answers.get(stage.id, (-ASK_S, ""))
        if self.clock() - asked_at < ASK_S:
            return answer
        answer = self._approval(stage) or self._room(stage, is_at_work=is_at_work)
        self._answers[stage.id] = (self.clock(), answer)
        return answer

    def release(self, stage_id: str) -> None:
        self._answers.pop(stage_id, None)
        if self.claims is not None:
            self.claims.release(self.run_id, stage_id)

    def close(self) -> None:
        """Give back all room of the run."""
        forget_stop(self.database, self.run_id)
        if self.claims is not None:
            self.claims.release(self.run_id)

    def stop_reason(self) -> str:
        """Why the run is to stop at its commit point; empty if it is not. Also says that its claims still count."""
        if self.claims is not None and self.clock() - self._renewed_at >= RENEW_S:
            self._renewed_at = self.clock()
            self.claims.renew(self.run_id)
        return stop_reason(self.database, self.run_id)

    def _approval(self, stage: PlannedStage) -> str:
        if not stage.spec.approval or newest_of(self.database, Approval, f"{self.run_id}:{stage.id}") is not None:
            return ""
        return f"{A_PERSON}: `illume approve {self.run_id}:{stage.id}`"

    def _room(self, stage: PlannedStage, *, is_at_work: bool) -> str:
        if self.claims is None:
            return ""
        request = Request(
            run_id=self.run_id,
            stage_id=stage.id,
            person=self.person,
            priority=self.priority,
            need=need_of(stage.spec.resources),
            asked_at=self.asked_at,
            makes=stage.fingerprint,
        )
        return self.claims.ask(request, may_yield=self.is_queued, is_at_work=is_at_work)


def admission_of(run_id: str, database: Database, cluster: Cluster, *, now: float, with_gpus: bool) -> Admission:
    """The admission of a run that this process is about to drive; stop requests of the time before are forgotten."""
    submission = submission_of(database, run_id)
    forget_stop(database, run_id)
    is_shared = not cluster.is_local or (submission is not None and submission.pool is not None)
    shared = cluster.shared(with_gpus=with_gpus) if is_shared else None
    return Admission(
        run_id=run_id,
        database=database,
        claims=None if shared is None else Claims(database, Pool(name=shared.name, capacity=_amounts(shared.total))),
        person=current_person() if submission is None else submission.person,
        priority=0 if submission is None else priority_of(database, submission),
        asked_at=now if submission is None else asked_at(submission),
        is_queued=submission is not None,
    )


def _amounts(total: NodeCapacity) -> Amounts:
    return Amounts(cpus=total.cpus, gpus=total.gpus, memory_gib=total.memory_gib)
