"""What becomes of the attempts that a driver left open, and which epoch the next one has."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ManifestDraft
from orchestrator.artifacts.run_epochs import EpochGuard, RunEpochs
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.jobs import JobInfo, JobState
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.cluster.ray_jobs import RayJobs
from orchestrator.errors import LeaseLostError, NodeLostError
from orchestrator.execution.takeover import Takeover
from orchestrator.failures.failure_class import FailureClass
from orchestrator.history.attempts import Attempt, AttemptIntent, StageRow
from orchestrator.history.run_status import StageStatus, run_status
from orchestrator.identity import fingerprint_of
from orchestrator.liveness.job_records import JobOutcome, JobRecords, job_id_of
from orchestrator.store.commits import read_outcome
from orchestrator.store.layout import artifact_site
from orchestrator.workspace import Workspace

RUN = "run-1"
PAYLOAD = {"kind": "train"}
KEY = ArtifactKey("train", fingerprint_of(PAYLOAD))
ATTEMPT = AttemptId.of(RUN, "train", epoch=1, number=1)
JOB = job_id_of(ATTEMPT)


@dataclass(frozen=True, kw_only=True)
class Jobs(RayJobs):
    """A cluster that answers from `states`."""

    address: str = "http://cluster"
    states: dict[str, JobState] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    is_away: bool = False

    def info(self, job_id: str) -> JobInfo | None:
        if self.is_away:
            raise NodeLostError("away")
        state = self.states.get(job_id)
        return None if state is None else JobInfo(state=state, message="")

    def unfinished_jobs(self, run_id: str) -> list[str]:
        assert run_id == RUN
        return [job_id for job_id, state in self.states.items() if state is JobState.RUNNING]

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """One whose run has a driver that ended, and left an attempt open."""
    with Workspace.open(root=tmp_path / "w", tracking_url="none") as opened:
        row = StageRow(stage_id="train", stage_kind=KEY.stage_kind, fingerprint=KEY.fingerprint, action="run")
        opened.runs.create_run(RUN, recipe_name="r", plan_digest="d" * 64, stages=[row])
        lease = takeover_of(opened).acquire(RUN)
        assert lease is not None
        takeover_of(opened).claim(RUN, lease)
        opened.runs.begin_epoch(RUN, lease)
        opened.runs.start_attempt(AttemptIntent(attempt=ATTEMPT, key=KEY, stage_version=1, config={}))
        opened.leases.release(lease)
        yield opened


def takeover_of(workspace: Workspace) -> Takeover:
    return Takeover(
        artifacts=workspace.artifacts, history=workspace.runs, leases=workspace.leases, liveness=workspace.liveness
    )


def settle(workspace: Workspace, jobs: Jobs | None = None) -> tuple[dict[str, Attempt], StageStatus]:
    """The attempts that go on after the next driver has settled the run, and the status of its stage."""
    if jobs is not None:
        workspace.cluster = Cluster(jobs)
    takeover = takeover_of(workspace)
    lease = takeover.acquire(RUN)
    assert lease is not None
    guard = takeover.claim(RUN, lease)
    workspace.runs.begin_epoch(RUN, lease)
    left = takeover.settle(RUN, lease.epoch, guard, jobs=jobs)
    return left, run_status(workspace.database, RUN).stages[0]


def commit(workspace: Workspace, attempt_id: str) -> None:
    folder = workspace.artifacts.new_attempt(KEY, attempt_id)
    (folder.data / "model").write_text("weights")
    workspace.artifacts.commit(folder, ManifestDraft(kind="model@1", payload=PAYLOAD, metrics={}), epoch=1)


def test_an_attempt_in_the_driver_is_lost_with_it_and_can_commit_nothing(workspace: Workspace) -> None:
    left, stage = settle(workspace)
    assert left == {}
    assert (stage.state, stage.failure_class) == ("LOST", FailureClass.CONTROLLER_LOST)
    assert stage.message == "its driver ended"
    outcome = read_outcome(workspace.store, artifact_site(KEY), ATTEMPT.name)
    assert outcome is not None
    assert (outcome.kind, outcome.reason) == ("ABORT", "its driver ended")


def test_an_attempt_that_had_committed_is_no_failure(workspace: Workspace) -> None:
    commit(workspace, ATTEMPT.name)
    _, stage = settle(workspace)
    assert (stage.state, stage.failure_class, stage.message) == ("COMMITTED", "", "")


def test_an_attempt_is_lost_although_another_one_has_committed_its_artifact(workspace: Workspace) -> None:
    commit(workspace, "another")
    _, stage = settle(workspace)
    assert stage.state == "LOST"


def test_an_attempt_whose_artifact_was_retracted_since_is_lost(workspace: Workspace) -> None:
    commit(workspace, ATTEMPT.name)
    assert workspace.artifacts.retract(KEY, reason="taken down")
    _, stage = settle(workspace)
    assert stage.state == "LOST"


@pytest.mark.parametrize(("state", "is_left"), [(JobState.RUNNING, True), (JobState.FAILED, False), (None, False)])
def test_a_job_goes_on_while_the_cluster_says_that_it_runs(
    workspace: Workspace, state: JobState | None, is_left: bool
) -> None:
    JobRecords(store=workspace.store, attempt=ATTEMPT).announce()
    jobs = Jobs(states={} if state is None else {JOB: state})
    left, stage = settle(workspace, jobs)
    assert [attempt.id.name for attempt in left.values()] == ([ATTEMPT.name] if is_left else [])
    assert list(left) == (["train"] if is_left else [])
    assert stage.state == ("INTENT" if is_left else "LOST")
    assert jobs.stopped == []


def test_an_outcome_that_no_driver_has_recorded_yet_is_left_to_the_next_one(workspace: Workspace) -> None:
    records = JobRecords(store=workspace.store, attempt=ATTEMPT)
    records.announce()
    records.put_outcome(JobOutcome(progressed=True))
    left, stage = settle(workspace, Jobs())
    assert (list(left), stage.state) == (["train"], "INTENT")


def test_jobs_of_attempts_that_have_ended_are_stopped(workspace: Workspace) -> None:
    JobRecords(store=workspace.store, attempt=ATTEMPT).announce()
    orphans = [f"illume-run-1-{name}-1-1" for name in ("other", "third")]
    jobs = Jobs(states=dict.fromkeys([orphans[0], JOB, orphans[1]], JobState.RUNNING))
    settle(workspace, jobs)
    assert jobs.stopped == orphans


@pytest.mark.parametrize(
    ("jobs", "way_out"),
    [(None, "continue the run with the profile that it was started with"), (Jobs(is_away=True), "once it answers")],
)
def test_a_job_of_which_nothing_is_known_is_not_given_up(workspace: Workspace, jobs: Any, way_out: str) -> None:
    JobRecords(store=workspace.store, attempt=ATTEMPT).announce()
    with pytest.raises(NodeLostError, match=f"attempt {ATTEMPT}.*{way_out}"):
        settle(workspace, jobs)
    assert run_status(workspace.database, RUN).stages[0].state == "INTENT"


def test_a_driver_that_was_overtaken_ends_no_attempt(workspace: Workspace) -> None:
    takeover = takeover_of(workspace)
    guard = EpochGuard(epochs=takeover.epochs(RUN), epoch=1)
    RunEpochs(store=workspace.store, run_id=RUN).claim(2, owner="process 2 on host2")
    jobs = Jobs(states={"illume-run-1-other-1-1": JobState.RUNNING})
    with pytest.raises(LeaseLostError, match="epoch 2 has taken over"):
        takeover.settle(RUN, 1, guard, jobs=jobs)
    assert read_outcome(workspace.store, artifact_site(KEY), ATTEMPT.name) is None
    JobRecords(store=workspace.store, attempt=ATTEMPT).announce()
    workspace.cluster = Cluster(Jobs(states={JOB: JobState.RUNNING}))
    with pytest.raises(LeaseLostError, match="epoch 2 has taken over"):
        takeover_of(workspace).settle(RUN, 1, guard, jobs=jobs)
    assert jobs.stopped == []


def test_the_next_epoch_is_above_those_of_the_store_and_a_database_that_lags_is_named(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    takeover = takeover_of(workspace)
    with caplog.at_level(logging.WARNING):
        second = takeover.acquire(RUN)
    assert second is not None
    assert (second.epoch, caplog.text) == (2, "")
    assert takeover.acquire(RUN) is None  # it is held
    workspace.leases.release(second)
    RunEpochs(store=workspace.store, run_id=RUN).claim(7, owner="a driver of the database before")
    with caplog.at_level(logging.WARNING):
        next_one = takeover.acquire(RUN)
    assert next_one is not None
    assert next_one.epoch == 8
    assert "the store knows its epoch 7 (runs/run-1/epochs/000007.json), the database only 2" in caplog.text
    fresh = takeover.acquire("run-2")
    assert fresh is not None
    assert fresh.epoch == 1
