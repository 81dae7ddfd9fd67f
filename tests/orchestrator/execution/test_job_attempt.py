"""How a controller gets its job to a cluster that is not ready for it; all else about jobs is in `tests/chaos`."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import CancelledError, NodeLostError
from orchestrator.execution import job_attempt as job_work
from orchestrator.execution.job_attempt import JobWork


class NewHead:
    """Takes a job at the third time, as a head whose agents come up."""

    def __init__(self, refusals: float) -> None:
        self.refusals = refusals
        self.submitted: list[str] = []

    def submit(self, job_id: str, arguments: str, metadata: dict[str, str]) -> None:
        self.submitted.append(job_id)
        if len(self.submitted) <= self.refusals:
            raise NodeLostError("answers 500: No available agent to submit job, please try again later.")


def work(head: NewHead, stop: threading.Event) -> JobWork:
    planned = SimpleNamespace(id="steps")
    order = SimpleNamespace(run_id="r1", attempt_id="r1-steps-1-1", planned=planned, epoch=1, memory_halvings=0)
    artifacts = SimpleNamespace(store=SimpleNamespace(url="file:///store"))
    parts: dict[str, Any] = {"order": order, "jobs": head, "artifacts": artifacts}
    return JobWork(**parts, plan_digest="0", tracker=None, history=None, stop=stop)  # type: ignore[arg-type]  # not used


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_work, "POLL_S", 0.001)


def test_a_job_is_submitted_again_under_its_id_until_it_is_taken() -> None:
    head = NewHead(refusals=2)
    work(head, threading.Event())._submit()
    assert head.submitted == ["illume-r1-steps-1-1"] * 3


def test_a_cluster_that_takes_no_jobs_is_lost_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_work, "SUBMIT_PATIENCE_S", 0.05)
    with pytest.raises(NodeLostError, match="No available agent"):
        work(NewHead(refusals=float("inf")), threading.Event())._submit()


def test_a_stop_ends_the_waiting() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(CancelledError, match="stopped before the cluster took it"):
        work(NewHead(refusals=float("inf")), stop)._submit()
