"""A cancel without a driver. Those with jobs and controllers are in `test_job_attempt.py`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ManifestDraft
from orchestrator.artifacts.run_epochs import RunEpochs
from orchestrator.attempt_id import AttemptId
from orchestrator.commands.run import cancellation_text
from orchestrator.errors import DatabaseError, FencedError, LeaseLostError
from orchestrator.execution.cancelling import cancel_run
from orchestrator.execution.takeover import Takeover
from orchestrator.failures.classes import report_of
from orchestrator.history.attempts import AttemptIntent, StageRow
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.lease_owners import LeaseOwner
from orchestrator.history.leases import Lease, Leases
from orchestrator.history.run_status import run_status
from orchestrator.history.run_store import StateConflictError
from orchestrator.identity import fingerprint_of
from orchestrator.liveness.job_records import JobOutcome, JobRecords
from orchestrator.workspace import Workspace

RUN = "run-1"
PAYLOAD = {"kind": "train"}
KEY = ArtifactKey("train", fingerprint_of(PAYLOAD))
ATTEMPT = AttemptId.of(RUN, "train", epoch=1, number=1)
ELSEWHERE = LeaseOwner(host="host7", boot="another", namespace="pid:[1]", pid=4711, started=5)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(root=tmp_path / "w", tracking_url="none") as opened:
        row = StageRow(stage_id="train", stage_kind=KEY.stage_kind, fingerprint=KEY.fingerprint, action="run")
        opened.runs.create_run(RUN, recipe_name="r", plan_digest="d" * 64, stages=[row])
        yield opened


def takeover_of(workspace: Workspace) -> Takeover:
    return Takeover(
        artifacts=workspace.artifacts, history=workspace.runs, leases=workspace.leases, liveness=workspace.liveness
    )


def frozen_driver(workspace: Workspace, *, as_job: bool) -> Lease:
    """A driver on another machine whose lease has run out."""
    lease = Leases(workspace.database, owner=ELSEWHERE).acquire(f"run:{RUN}", duration_s=-1.0)
    assert lease is not None
    live = Leases(workspace.database, owner=ELSEWHERE).revive(replace(lease, duration_s=60.0))
    RunEpochs(store=workspace.store, run_id=RUN).claim(1, owner="process 4711 on host7")
    workspace.runs.begin_epoch(RUN, live)
    workspace.runs.start_attempt(AttemptIntent(attempt=ATTEMPT, key=KEY, stage_version=1, config={}))
    if as_job:
        JobRecords(store=workspace.store, attempt=ATTEMPT).announce()
    workspace.runs.transition_attempt(ATTEMPT.name, AttemptState.INTENT, AttemptState.RUNNING, epoch=1)
    return Leases(workspace.database, owner=ELSEWHERE).revive(replace(lease, duration_s=-1.0))


def state_of(workspace: Workspace) -> tuple[str, str, str]:
    status = run_status(workspace.database, RUN)
    return status.run.state, status.stages[0].state, status.stages[0].failure_class


def test_a_frozen_driver_is_fenced_and_its_run_cancelled(workspace: Workspace) -> None:
    lease = frozen_driver(workspace, as_job=False)
    folder = workspace.artifacts.new_attempt(KEY, ATTEMPT.name, attempt=ATTEMPT)
    (folder.data / "model").write_text("weights")
    done = workspace.cancel(RUN)
    assert cancellation_text(RUN, done) == (
        "run run-1: its driver is frozen (process 4711 on host7); cancelled without it, `illume resume run-1` continues"
    )
    assert state_of(workspace) == ("CANCELLED", "CANCELLED", "")
    # It wakes up: it can write nothing, neither here nor there.
    with pytest.raises(FencedError):
        workspace.artifacts.commit(folder, ManifestDraft(kind="model@1", payload=PAYLOAD, metrics={}), epoch=1)
    with pytest.raises(LeaseLostError):
        workspace.runs.record(RUN, "note", {}, epoch=1)
    with pytest.raises(LeaseLostError):
        workspace.leases.revive(lease)


def test_a_cancel_beside_a_driver_that_is_about_to_begin_waits_until_it_can_be_asked(workspace: Workspace) -> None:
    lease = frozen_driver(workspace, as_job=True)
    workspace.runs.transition_run(RUN, RunState.RUNNING, RunState.INTERRUPTED, epoch=1)
    elsewhere = Leases(workspace.database, owner=ELSEWHERE)
    elsewhere.release(lease)
    resuming = elsewhere.acquire(f"run:{RUN}")
    assert resuming is not None

    def begin(_pause_s: float) -> None:
        workspace.runs.begin_epoch(RUN, resuming)

    assert cancel_run(takeover_of(workspace), RUN, sleep=begin).end == "asked"
    assert workspace.runs.cancel_requested(RUN)


def test_a_job_that_does_not_end_leaves_the_run_stopping(workspace: Workspace) -> None:
    frozen_driver(workspace, as_job=True)
    pauses: list[float] = []
    done = cancel_run(takeover_of(workspace), RUN, patience_s=3.0, sleep=pauses.append)
    assert len(pauses) == 3
    assert (done.end, done.jobs) == ("stopping", ("illume-run-1-train-1-1",))
    assert "not ended yet: illume-run-1-train-1-1; `illume cancel run-1` again" in cancellation_text(RUN, done)
    assert state_of(workspace) == ("STOPPING", "RUNNING", "")
    assert JobRecords(store=workspace.store, attempt=ATTEMPT).is_stop_requested()
    JobRecords(store=workspace.store, attempt=ATTEMPT).put_outcome(JobOutcome(stopped="told to stop"))
    assert workspace.cancel(RUN).end == "cancelled"
    assert state_of(workspace) == ("CANCELLED", "CANCELLED", "")


def test_what_a_job_had_committed_is_recorded_as_committed(workspace: Workspace) -> None:
    frozen_driver(workspace, as_job=True)
    folder = workspace.artifacts.new_attempt(KEY, ATTEMPT.name, attempt=ATTEMPT)
    (folder.data / "model").write_text("weights")
    workspace.artifacts.commit(folder, ManifestDraft(kind="model@1", payload=PAYLOAD, metrics={}), epoch=1)
    JobRecords(store=workspace.store, attempt=ATTEMPT).put_outcome(JobOutcome(progressed=True))
    assert workspace.cancel(RUN).end == "cancelled"
    assert state_of(workspace) == ("CANCELLED", "COMMITTED", "")


def test_a_job_that_had_failed_is_recorded_with_its_failure(workspace: Workspace) -> None:
    frozen_driver(workspace, as_job=True)
    outcome = JobOutcome(failure=report_of(ZeroDivisionError("division by zero")))
    JobRecords(store=workspace.store, attempt=ATTEMPT).put_outcome(outcome)
    workspace.cancel(RUN)
    assert state_of(workspace) == ("CANCELLED", "FAILED", "user_code")


@pytest.mark.parametrize(
    ("outcome", "message"),
    [(JobOutcome(stopped="told to stop"), "told to stop"), (JobOutcome(), "cancelled"), (None, "cancelled")],
)
def test_a_cancelled_attempt_says_how_its_job_ended(
    workspace: Workspace, outcome: JobOutcome | None, message: str
) -> None:
    frozen_driver(workspace, as_job=outcome is not None)
    if outcome is not None:
        JobRecords(store=workspace.store, attempt=ATTEMPT).put_outcome(outcome)
    workspace.cancel(RUN)
    stage = run_status(workspace.database, RUN).stages[0]
    assert (stage.state, stage.message) == ("CANCELLED", message)


def test_a_job_of_a_run_that_has_failed_is_stopped(workspace: Workspace) -> None:
    frozen_driver(workspace, as_job=True)
    workspace.runs.transition_run(RUN, RunState.RUNNING, RunState.FAILED, epoch=1)
    done = cancel_run(takeover_of(workspace), RUN)
    assert (done.end, done.life.is_finished) == ("stopping", True)
    assert JobRecords(store=workspace.store, attempt=ATTEMPT).is_stop_requested()


def test_a_run_between_two_attempts_is_cancelled_by_one_request(workspace: Workspace) -> None:
    frozen_driver(workspace, as_job=False)
    workspace.runs.transition_attempt(ATTEMPT.name, AttemptState.RUNNING, AttemptState.FAILED, epoch=1)
    done = workspace.cancel(RUN)
    assert (done.end, done.jobs) == ("cancelled", ())
    assert run_status(workspace.database, RUN).run.state == "CANCELLED"
    assert [event.kind for event in workspace.runs.events(RUN)].count("cancel_requested") == 1
    with pytest.raises(StateConflictError, match="has ended as CANCELLED"):
        workspace.cancel(RUN)


def test_a_run_that_never_was_is_an_error(workspace: Workspace) -> None:
    with pytest.raises(DatabaseError, match="run run-9: not in the database"):
        workspace.cancel("run-9")
