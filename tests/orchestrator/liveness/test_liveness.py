"""Who is alive: drivers by their lease and process, jobs by their records and what the cluster says."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.jobs import JobInfo
from orchestrator.cluster.jobs import JobState as State
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.cluster.ray_jobs import RayJobs
from orchestrator.errors import NodeLostError, PrecheckError, RecipeError
from orchestrator.history import lease_owners
from orchestrator.history.attempts import AttemptIntent, StageRow
from orchestrator.history.database import schema
from orchestrator.history.events import AttemptState, RunState, iso_time
from orchestrator.history.leases import LEASE_S, Lease, Leases
from orchestrator.history.run_status import run_status
from orchestrator.liveness.job_records import JobOutcome, JobRecords
from orchestrator.liveness.life_in_status import with_life
from orchestrator.liveness.liveness import AWAY_AFTER_S, DriverState, JobState
from orchestrator.store.commits import read_outcome
from orchestrator.store.layout import artifact_site
from orchestrator.workspace import Workspace

RUN, KEY = "run-1", ArtifactKey("train", "ab" * 32)
ATTEMPT = AttemptId.of(RUN, "train", epoch=1, number=1)


@dataclass(frozen=True, kw_only=True)
class Jobs(RayJobs):
    """A cluster that answers from `states`."""

    address: str = "http://cluster"
    states: dict[str, Any] = field(default_factory=dict)

    def info(self, job_id: str) -> JobInfo | None:
        state = self.states.get(job_id)
        if isinstance(state, Exception):
            raise state
        return None if state is None else JobInfo(state=state, message="")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(root=tmp_path / "w", tracking_url="none") as opened:
        row = StageRow(stage_id="train", stage_kind=KEY.stage_kind, fingerprint=KEY.fingerprint, action="run")
        opened.runs.create_run(RUN, recipe_name="r", plan_digest="d" * 64, stages=[row])
        yield opened


def owner_of(pid: int) -> lease_owners.LeaseOwner:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return lease_owners.LeaseOwner(**{**vars(lease_owners.this_process()), "pid": pid, "started": int(stat[19])})


def drive(workspace: Workspace, *, owner: lease_owners.LeaseOwner | None = None, as_job: bool = False) -> Lease:
    """A driver that has one attempt at work, in its own process or as a job."""
    lease = Leases(workspace.database, owner=owner).acquire(f"run:{RUN}")
    assert lease is not None
    epoch = workspace.runs.begin_epoch(RUN, lease)
    workspace.runs.start_attempt(AttemptIntent(attempt=ATTEMPT, key=KEY, stage_version=1, config={}))
    if as_job:
        JobRecords(store=workspace.store, attempt=ATTEMPT).announce()
    workspace.runs.transition_attempt(ATTEMPT.name, AttemptState.INTENT, AttemptState.RUNNING, epoch=epoch)
    return lease


def expire(workspace: Workspace, *, ago_s: float = 1.0) -> None:
    change = update(schema.leases).values(expires_at=schema.database_now() - ago_s)
    workspace.database.write(lambda connection: connection.execute(change))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    found = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield found
    found.kill()
    found.wait()


ELSEWHERE = lease_owners.LeaseOwner(host="host7", boot="another", namespace="pid:[1]", pid=4711, started=5)


def test_a_driver_is_alive_while_it_renews_its_lease(workspace: Workspace) -> None:
    drive(workspace, owner=ELSEWHERE)
    driver = workspace.liveness.driver(RUN)
    assert (driver.state, driver.who, driver.since) == (DriverState.ALIVE, "process 4711 on host7", None)
    assert workspace.liveness.run(RUN).may_work
    assert workspace.is_live(ATTEMPT.name)


def test_a_driver_elsewhere_whose_lease_ran_out_is_frozen_not_gone(workspace: Workspace) -> None:
    drive(workspace, owner=ELSEWHERE)
    expire(workspace)
    driver = workspace.liveness.driver(RUN)
    assert (driver.state, driver.since is not None) == (DriverState.FROZEN, True)
    assert workspace.is_live(ATTEMPT.name)


def test_a_driver_whose_machine_was_not_seen_for_long_is_called_gone_and_may_still_write(workspace: Workspace) -> None:
    """Nobody knows that it has ended, so nothing is taken from it; but nobody waits for it to wake, either."""
    drive(workspace, owner=ELSEWHERE)
    expire(workspace, ago_s=AWAY_AFTER_S - LEASE_S - 30.0)
    assert workspace.liveness.driver(RUN).state is DriverState.FROZEN
    expire(workspace, ago_s=AWAY_AFTER_S)
    life = workspace.liveness.run(RUN)
    assert (life.driver.state, life.driver.machine) == (DriverState.AWAY, "host7")
    assert life.may_work
    assert workspace.is_live(ATTEMPT.name)
    status = with_life(run_status(workspace.database, RUN), life)
    assert life.driver.since is not None
    assert f"its driver is gone (machine host7 not seen since {iso_time(life.driver.since)}); " in status.run.message


def test_a_machine_on_which_another_process_renews_its_lease_is_not_away(workspace: Workspace) -> None:
    drive(workspace, owner=ELSEWHERE)
    expire(workspace, ago_s=10 * AWAY_AFTER_S)
    assert Leases(workspace.database, owner=replace(ELSEWHERE, pid=4712)).acquire("run:other") is not None
    assert workspace.liveness.driver(RUN).state is DriverState.FROZEN


def test_this_machine_is_never_away(workspace: Workspace, process: subprocess.Popen[bytes]) -> None:
    drive(workspace, owner=owner_of(process.pid))
    expire(workspace, ago_s=10 * AWAY_AFTER_S)
    assert workspace.liveness.driver(RUN).state is DriverState.FROZEN


def test_a_stopped_process_is_frozen_and_a_killed_one_gone(
    workspace: Workspace, process: subprocess.Popen[bytes]
) -> None:
    drive(workspace, owner=owner_of(process.pid))
    assert workspace.liveness.driver(RUN).state is DriverState.ALIVE
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert workspace.liveness.driver(RUN).state is DriverState.FROZEN
    process.kill()
    process.wait()
    assert workspace.liveness.driver(RUN).state is DriverState.GONE
    assert not workspace.liveness.run(RUN).may_work
    assert not workspace.is_live(ATTEMPT.name)


def test_a_released_lease_leaves_no_driver(workspace: Workspace) -> None:
    workspace.leases.release(drive(workspace))
    assert workspace.liveness.driver(RUN).state is DriverState.GONE
    assert workspace.liveness.working_runs() == []
    assert workspace.liveness.runs_at_work() == {RUN}  # it has not ended, and may go on


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (State.RUNNING, JobState.RUNNING),
        (State.PENDING, JobState.RUNNING),
        (State.FAILED, JobState.ENDED),
        (None, JobState.ENDED),
        (NodeLostError("away"), JobState.UNKNOWN),
        (PrecheckError("refused the token"), JobState.UNKNOWN),
    ],
)
def test_a_job_is_what_the_cluster_says_until_it_has_an_outcome(
    workspace: Workspace, answer: Any, expected: JobState
) -> None:
    workspace.cluster = Cluster(Jobs(states={f"illume-{ATTEMPT}": answer}))
    assert workspace.liveness.job(ATTEMPT) is JobState.NONE
    workspace.leases.release(drive(workspace, as_job=True))
    assert workspace.liveness.job(ATTEMPT) is expected
    assert workspace.is_live(ATTEMPT.name) == (expected is not JobState.ENDED)
    JobRecords(store=workspace.store, attempt=ATTEMPT).put_outcome(JobOutcome(stopped="told to"))
    assert workspace.liveness.job(ATTEMPT) is JobState.ENDED


def test_a_job_may_run_where_no_cluster_is_known(workspace: Workspace) -> None:
    workspace.leases.release(drive(workspace, as_job=True))
    workspace.runs.begin_epoch(RUN, lease := workspace.leases.acquire(f"run:{RUN}"))  # type: ignore[arg-type]
    workspace.runs.transition_run(RUN, RunState.RUNNING, RunState.INTERRUPTED, epoch=2)
    workspace.leases.release(lease)  # type: ignore[arg-type]  # a controller that left its job running
    life = workspace.liveness.run(RUN)
    assert (life.is_finished, life.may_work) == (True, True)
    assert life.describe() == "its driver is gone, its job illume-run-1-train-1-1 may be running"
    assert [found.run_id for found in workspace.liveness.working_runs()] == [RUN]
    assert workspace.liveness.runs_at_work() == {RUN}
    JobRecords(store=workspace.store, attempt=ATTEMPT).put_outcome(JobOutcome(stopped="told to"))
    assert workspace.liveness.runs_at_work() == set()


def test_a_job_that_the_history_does_not_know_may_be_running(workspace: Workspace) -> None:
    lost = AttemptId.of("run-2", "train", epoch=3, number=1)
    JobRecords(store=workspace.store, attempt=lost).announce()
    assert [life.run_id for life in workspace.liveness.working_runs()] == ["run-2"]
    assert workspace.is_live(lost.name)
    JobRecords(store=workspace.store, attempt=lost).put_outcome(JobOutcome())
    assert workspace.liveness.working_runs() == []
    assert not workspace.is_live(lost.name)
    assert not workspace.is_live("run-2-other-1-1")


def test_unknown_jobs_are_found_among_known_ones_and_those_of_other_runs(workspace: Workspace) -> None:
    workspace.leases.release(drive(workspace, as_job=True))
    jobs = [AttemptId.of(run_id, "work", epoch=3, number=1) for run_id in ("run-0", RUN, "run-2")]
    for job in jobs:
        JobRecords(store=workspace.store, attempt=job).announce()
    lives = workspace.liveness.working_runs()
    assert [(life.run_id, life.attempts[0].attempt.name) for life in lives] == [
        (RUN, ATTEMPT.name),
        *((job.run_id, job.name) for job in jobs),
    ]
    assert all(life.may_work and life.attempts[0].may_write for life in lives)
    assert all(workspace.liveness.may_write(job.name) for job in jobs)


def test_an_attempt_that_has_ended_writes_nothing_though_its_driver_lives(workspace: Workspace) -> None:
    epoch = drive(workspace).epoch
    assert workspace.liveness.may_write(ATTEMPT.name)
    workspace.runs.transition_attempt(ATTEMPT.name, AttemptState.RUNNING, AttemptState.FAILED, epoch=epoch)
    assert not workspace.liveness.may_write(ATTEMPT.name)
    assert workspace.liveness.run(RUN).may_work


def test_a_takedown_waits_for_whatever_may_write(workspace: Workspace) -> None:
    takedown = Takedown(id="T1", note="", created="2026-01-01T00:00:00Z", content={"image": frozenset({"x"})})
    lease = drive(workspace, as_job=True)
    with pytest.raises(RecipeError, match="run run-1 may use or make what is retracted: its driver is alive"):
        workspace.take_down(takedown)
    workspace.leases.release(lease)
    with pytest.raises(RecipeError, match="its job illume-run-1-train-1-1 may be running; stop it first: `illume can"):
        workspace.take_down(takedown)
    JobRecords(store=workspace.store, attempt=ATTEMPT).put_outcome(JobOutcome(stopped="told to"))
    workspace.take_down(takedown)
    outcome = read_outcome(workspace.store, artifact_site(KEY), ATTEMPT.name)
    assert outcome is not None
    assert (outcome.kind, outcome.reason) == ("ABORT", "takedown T1")  # what nobody sees cannot commit any more


def test_an_artifact_is_reserved_until_its_lease_is_released(workspace: Workspace) -> None:
    lease = workspace.leases.acquire(f"artifact:{KEY.fingerprint}")
    assert lease is not None
    drive(workspace)  # its own lease is of a run
    assert workspace.liveness.reserved_artifacts() == {KEY.fingerprint}
    expire(workspace)  # its run was interrupted, and may be resumed
    assert workspace.liveness.reserved_artifacts() == {KEY.fingerprint}
    workspace.leases.release(lease)
    assert workspace.liveness.reserved_artifacts() == set()


def test_other_runs_see_the_job_at_an_artifact(workspace: Workspace) -> None:
    workspace.leases.release(drive(workspace, as_job=True))
    assert [life.run_id for life in workspace.liveness.jobs_at(KEY, but_run="run-2")] == [RUN]
    assert workspace.liveness.jobs_at(KEY, but_run=RUN) == []
    assert workspace.liveness.jobs_at(ArtifactKey("train", "cd" * 32), but_run="run-2") == []
