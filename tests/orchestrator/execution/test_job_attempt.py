"""Submitting a job to a cluster that is not ready for it; other tests of jobs are in `tests/chaos`."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.errors import CancelledError, NodeLostError
from orchestrator.execution import job_attempt
from orchestrator.execution.job_attempt import JobAttempt


class NewHead:
    """Accepts a job at the third try, like a head whose agents are still starting."""

    def __init__(self, refusals: float) -> None:
        self.refusals = refusals
        self.submitted: list[str] = []

    def submit(self, job_id: str, arguments: str, metadata: dict[str, str]) -> None:
        self.submitted.append(job_id)
        if len(self.submitted) <= self.refusals:
            raise NodeLostError("answers 500: No available agent to submit job, please try again later.")


def work(head: NewHead, stop: threading.Event) -> JobAttempt:
    planned = SimpleNamespace(id="steps")
    attempt = AttemptId.of("r1", "steps", epoch=1, number=1)
    request = SimpleNamespace(attempt=attempt, planned=planned, memory_halvings=0)
    artifacts = SimpleNamespace(store=SimpleNamespace(url="file:///store"))
    parts: dict[str, Any] = {"request": request, "jobs": head, "artifacts": artifacts}
    return JobAttempt(**parts, plan_digest="0", tracker=None, history=None, stop=stop)  # type: ignore[arg-type]  # not used


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_attempt, "POLL_S", 0.001)


def test_a_job_is_submitted_again_under_its_id_until_it_is_accepted() -> None:
    head = NewHead(refusals=2)
    work(head, threading.Event())._submit()
    assert head.submitted == ["illume-r1-steps-1-1"] * 3


def test_a_cluster_that_accepts_no_jobs_counts_as_lost_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_attempt, "SUBMIT_TIMEOUT_S", 0.05)
    with pytest.raises(NodeLostError, match="No available agent"):
        work(NewHead(refusals=float("inf")), threading.Event())._submit()


def test_a_stop_ends_the_waiting() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(CancelledError, match="stopped before the cluster accepted it"):
        work(NewHead(refusals=float("inf")), stop)._submit()
