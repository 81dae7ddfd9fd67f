"""Controllers and their jobs: what stops a job and what only ends following it. A double plays the cluster.

Tests with real jobs are in `tests/chaos/test_jobs.py`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.artifact import Artifact, ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.run_epochs import EpochGuard, RunEpochs
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.jobs import JobInfo, JobState
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.cluster.ray_jobs import RayJobs
from orchestrator.errors import (
    CancelledError,
    DatabaseError,
    LeaseLostError,
    NodeLostError,
    OrchestratorError,
    PrecheckError,
    StoppedError,
)
from orchestrator.execution import job_attempt, run_loop
from orchestrator.execution.executor import Executor
from orchestrator.execution.job_attempt import JobAttempt, _TelemetryForwarder
from orchestrator.execution.stop_events import StopEvents
from orchestrator.failures.classes import classified, report_of
from orchestrator.failures.failure_class import FailureClass
from orchestrator.history.database import schema
from orchestrator.history.database.database import Database
from orchestrator.history.leases import Lease, Leases
from orchestrator.history.run_status import run_status
from orchestrator.history.run_store import StateConflictError
from orchestrator.liveness.job_records import JobOutcome, JobRecords, StoreTracker
from orchestrator.planning.plan import Plan, PlannedStage, make_plan
from orchestrator.planning.plan_file import plan_digest, plan_to_json
from orchestrator.planning.store_view import plan_view
from orchestrator.shards import ShardOutcome
from orchestrator.stage import Recipe, Resources, RetryPolicy, StageKind, StageSpec
from orchestrator.store.store import Store, open_store
from orchestrator.workspace import Workspace, stage_rows

RUN = "r1"


class NewHead:
    """Accepts a job at the third try, like a head whose agents are still starting."""

    def __init__(self, refusals: float) -> None:
        self.refusals = refusals
        self.submitted: list[str] = []

    def submit(self, job_id: str, arguments: str, metadata: dict[str, str]) -> None:
        self.submitted.append(job_id)
        if len(self.submitted) <= self.refusals:
            raise NodeLostError("answers 500: No available agent to submit job, please try again later.")


def work(head: NewHead, stop: threading.Event, tmp_path: Path) -> JobAttempt:
    planned = SimpleNamespace(id="steps")
    attempt = AttemptId.of(RUN, "steps", epoch=1, number=1)
    request = SimpleNamespace(attempt=attempt, planned=planned, memory_halvings=0, avoided_nodes=frozenset())
    store = open_store(tmp_path / "store")
    guard = EpochGuard(epochs=RunEpochs(store=store, run_id=RUN), epoch=1)
    parts: dict[str, Any] = {"request": request, "jobs": head, "artifacts": ArtifactStore(store, tmp_path / "cache")}
    return JobAttempt(**parts, plan_digest="0", tracker=None, history=None, stop=stop, guard=guard)  # type: ignore[arg-type]  # not used


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_attempt, "POLL_S", 0.01)
    monkeypatch.setattr(run_loop, "POLL_S", 0.02)
    monkeypatch.setattr(run_loop, "CANCEL_POLL_S", 0.05)


def test_a_job_is_submitted_again_under_its_id_until_it_is_accepted(tmp_path: Path) -> None:
    head = NewHead(refusals=2)
    work(head, threading.Event(), tmp_path)._submit()
    assert head.submitted == ["illume-r1-steps-1-1"] * 3


def test_a_cluster_that_accepts_no_jobs_counts_as_lost_after_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(job_attempt, "SUBMIT_TIMEOUT_S", 0.05)
    with pytest.raises(NodeLostError, match="No available agent"):
        work(NewHead(refusals=float("inf")), threading.Event(), tmp_path)._submit()


def test_a_stop_ends_the_waiting(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(CancelledError, match="stopped before the cluster accepted it"):
        work(NewHead(refusals=float("inf")), stop, tmp_path)._submit()


def test_a_job_that_the_cluster_may_have_accepted_is_asked_to_stop_when_it_is_given_up(tmp_path: Path) -> None:
    given_up = work(NewHead(refusals=float("inf")), threading.Event(), tmp_path)
    given_up.request.planned.key = ArtifactKey("tokenize", "a" * 64)  # type: ignore[misc]  # a namespace
    RunEpochs(store=given_up.artifacts.store, run_id=RUN).claim(1, owner="process 1 on host1")
    given_up.abort("the answers to its submission were cut")
    assert JobRecords(store=given_up.artifacts.store, attempt=given_up.request.attempt).is_stop_requested()
    RunEpochs(store=given_up.artifacts.store, run_id=RUN).claim(2, owner="process 2 on host2")
    given_up.abort("again, though another driver has taken over")  # says so in the log; the attempt is the other's


def test_a_controller_whose_run_was_taken_over_submits_nothing(tmp_path: Path) -> None:
    head = NewHead(refusals=0)
    late = work(head, threading.Event(), tmp_path)
    RunEpochs(store=late.artifacts.store, run_id=RUN).claim(2, owner="process 2 on host2")
    with pytest.raises(LeaseLostError, match="epoch 2 has taken over"):
        late._submit()
    assert head.submitted == []


def test_the_reason_why_the_cluster_lets_a_job_wait_is_told_once(tmp_path: Path) -> None:
    told: list[tuple[str, Any]] = []
    waiting = work(NewHead(refusals=0), threading.Event(), tmp_path)

    def record(_run_id: str, kind: str, fields: Any, *, epoch: int, stage_id: str) -> None:
        assert (epoch, stage_id) == (1, "steps")
        told.append((kind, fields["for"]))

    waiting.history = SimpleNamespace(record=record)  # type: ignore[assignment]  # a double
    for state, message in (
        (JobState.PENDING, "Slurm: Priority (job 17)"),
        (JobState.PENDING, "Slurm: Priority (job 17)"),
        (JobState.PENDING, "Slurm: Resources (job 17)"),
        (JobState.RUNNING, ""),
        (JobState.RUNNING, ""),
    ):
        waiting._say_what_it_waits_for(JobInfo(state=state, message=message))
    assert told == [
        ("waiting", "Slurm: Priority (job 17)"),
        ("waiting", "Slurm: Resources (job 17)"),
        ("waited", "Slurm: Resources (job 17)"),
    ]


def test_shards_that_a_lost_job_recorded_are_progress(tmp_path: Path) -> None:
    lost = work(NewHead(refusals=0), threading.Event(), tmp_path)
    key = ArtifactKey("tokenize", "a" * 64)
    lost.request.planned.key = key  # type: ignore[misc]  # a namespace
    lost.request.planned.spec = SimpleNamespace(kind=SimpleNamespace(name="tokenize"))  # type: ignore[misc,assignment]
    assert not lost.progressed()
    ledger = ShardLedger(lost.artifacts.store, tmp_path / "cache")
    ledger.record(ledger.new_output(key, owner="r1-steps-1-1"), ShardOutcome(rows=1), provenance={})
    assert lost.progressed()


# A run with one stage that is a job: the cluster is a double, store and database are real.


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    n: int = 1


KIND = StageKind(name="train_model", version=1, config=NoConfig, run=lambda _config, _context: {}, output="model@1")


@dataclass(frozen=True, kw_only=True)
class Jobs(RayJobs):
    """A cluster whose jobs are threads: each waits until the test ends it, or until it is asked to stop."""

    store: Any
    cache: Path
    planned: PlannedStage
    address: str = "http://cluster"
    submitted: list[str] = field(default_factory=list)
    states: dict[str, JobState] = field(default_factory=dict)
    finish: threading.Event = field(default_factory=threading.Event)
    away: threading.Event = field(default_factory=threading.Event)
    taken: threading.Event = field(default_factory=threading.Event)  # the machines of the running job go
    keeps: threading.Event = field(default_factory=threading.Event)  # ... and its driver knows why; it is queued again
    stopped: list[str] = field(default_factory=list)

    def check(self) -> None:
        pass

    def submit(self, job_id: str, arguments: str, metadata: Any) -> None:
        if job_id not in self.states:
            self.submitted.append(job_id)
            self.states[job_id] = JobState.RUNNING
            threading.Thread(target=self._work, args=(job_id, arguments.split()), daemon=True).start()

    def info(self, job_id: str) -> JobInfo | None:
        if self.away.is_set():
            raise NodeLostError("the head does not answer")
        return JobInfo(state=self.states[job_id], message="") if job_id in self.states else None

    def unfinished_jobs(self, run_id: str) -> list[str]:
        running = [job_id for job_id, state in self.states.items() if state is JobState.RUNNING]
        return [job_id for job_id in running if job_id.startswith(f"illume-{run_id}-")]

    def stop(self, job_id: str) -> None:
        assert self.keeps.is_set(), f"{job_id} is not to be stopped by the cluster"
        self.stopped.append(job_id)

    def logs(self, job_id: str) -> str:
        raise AssertionError(f"{job_id} writes its log into the store; its output is not read while it runs")

    def _work(self, job_id: str, words: list[str]) -> None:
        """What a stage driver does."""
        _, run_id, stage_id, name, *_ = words
        attempt = AttemptId(run_id=run_id, stage_id=stage_id, epoch=int(words[words.index("--epoch") + 1]), name=name)
        records = JobRecords(store=self.store, attempt=attempt)
        artifacts = ArtifactStore(self.store, self.cache / name)
        try:
            folder = artifacts.new_attempt(self.planned.key, name, attempt=attempt)
            while not self.finish.wait(0.02):
                if self.taken.is_set():
                    self.taken.clear()
                    artifacts.abort(folder, reason="SIGTERM")
                    if self.keeps.is_set():
                        self.states[job_id] = JobState.PENDING
                        taken = classified(FailureClass.PREEMPTED, "its machines are taken away")
                        records.put_outcome(JobOutcome(failure=report_of(taken)))
                        return
                    records.put_outcome(JobOutcome(stopped="SIGTERM"))
                    time.sleep(0.2)  # until the cluster says how it ended
                    self.states[job_id] = JobState.PREEMPTED
                    return
                if records.is_stop_requested():
                    artifacts.abort(folder, reason="told to stop")
                    records.put_outcome(JobOutcome(stopped="told to stop"))
                    break
            else:
                (folder.data / "model").write_text("weights")
                draft = ManifestDraft(kind="model@1", payload=self.planned.payload, metrics={})
                artifacts.commit(folder, draft, epoch=attempt.epoch)
                records.put_outcome(JobOutcome(progressed=True))
        except OrchestratorError as error:
            records.put_outcome(JobOutcome(failure=report_of(error)))
        self.states[job_id] = JobState.SUCCEEDED


class ShortLeases(Leases):
    """Leases of one second; `away`: the database does not answer."""

    away = False

    def acquire(self, resource: str, *, duration_s: float = 1.0) -> Lease | None:
        return super().acquire(resource, duration_s=1.0)

    def renew(self, lease: Lease) -> Lease:
        if self.away:
            raise DatabaseError("database postgresql://db: connection refused")
        return super().renew(lease)

    def revive(self, lease: Lease) -> Lease:
        if self.away:
            raise DatabaseError("database postgresql://db: connection refused")
        return super().revive(lease)


@dataclass
class Controller:
    """A controller of the run, in a thread of its own."""

    workspace: Workspace
    plan: Plan
    leases: ShortLeases
    stop: threading.Event = field(default_factory=threading.Event)
    detached: threading.Event = field(default_factory=threading.Event)
    result: list[dict[str, Artifact] | Exception] = field(default_factory=list)

    def start(self) -> "Controller":
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def ended(self) -> dict[str, Artifact] | Exception:
        self.thread.join(30)
        assert not self.thread.is_alive(), "the controller does not end"
        return self.result[0]

    def _run(self) -> None:
        place = self.workspace
        executor = Executor(
            artifacts=place.artifacts,
            history=place.runs,
            leases=self.leases,
            cluster=place.cluster,
            state=place.root,
        )
        try:
            self.result.append(executor.run(self.plan, RUN, stops=StopEvents(stop=self.stop, detached=self.detached)))
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.result.append(error)


@dataclass
class Desk:
    workspace: Workspace
    plan: Plan
    jobs: Jobs

    def controller(self) -> Controller:
        return Controller(self.workspace, self.plan, ShortLeases(self.workspace.database))

    def stop_requests(self) -> list[str]:
        return [item.key for item in self.workspace.store.list(f"runs/{RUN}/jobs") if "/stop/" in item.key]

    def state(self) -> str:
        return run_status(self.workspace.database, RUN).run.state

    def expire_leases(self) -> None:
        change = update(schema.leases).values(expires_at=0.0)
        self.workspace.database.write(lambda connection: connection.execute(change))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from desk_at(tmp_path, None)


def desk_at(tmp_path: Path, store_url: str | None) -> Iterator[Desk]:
    spec = StageSpec(
        id="train", kind=KIND, config=NoConfig(), inputs={}, resources=Resources(), retry=RetryPolicy(wait_s=0.01)
    )
    with Workspace.open(store_url, root=tmp_path / "w", tracking_url="none") as workspace:
        plan = make_plan(Recipe(name="r", stages=(spec,)), plan_view(workspace.artifacts, workspace.database))
        jobs = Jobs(store=workspace.store, cache=tmp_path / "jobs", planned=plan.stages[0])
        workspace.cluster = Cluster(jobs)
        workspace.records.put_plan(plan_digest(plan), plan_to_json(plan))
        workspace.runs.create_run(RUN, recipe_name="r", plan_digest=plan_digest(plan), stages=stage_rows(plan))
        yield Desk(workspace, plan, jobs)
        jobs.finish.set()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


def test_a_replaced_controller_ends_and_leaves_the_job_to_its_successor(desk: Desk) -> None:
    first = desk.controller().start()
    wait_until(lambda: bool(desk.jobs.submitted))
    desk.expire_leases()  # as if it had been frozen
    second = desk.controller().start()
    end = first.ended()
    assert isinstance(end, LeaseLostError), end
    assert desk.stop_requests() == []
    desk.jobs.finish.set()
    made = second.ended()
    assert isinstance(made, dict), made
    assert set(made) == {"train"}
    assert desk.jobs.submitted == ["illume-r1-train-1-1"]  # one job, from its start to its end
    assert desk.state() == "SUCCEEDED"


def test_a_controller_downloads_nothing_of_what_a_job_made(s3_store: Store, tmp_path: Path) -> None:
    for desk in desk_at(tmp_path, s3_store.url):
        first = desk.controller().start()
        wait_until(lambda: bool(desk.jobs.submitted))  # noqa: B023 - of this round
        desk.jobs.finish.set()
        made = first.ended()
        assert isinstance(made, dict), made
        assert [file.path for file in made["train"].manifest.files] == ["model"]
        assert not any(path.is_file() for path in desk.workspace.artifacts.cache.rglob("*"))
        assert desk.workspace.artifacts.open(made["train"].manifest.key).path == made["train"].path
        assert (made["train"].path / "model").read_text() == "weights"


def test_a_database_that_is_away_for_longer_than_the_lease_stops_nothing(desk: Desk) -> None:
    only = desk.controller()
    only.start()
    wait_until(lambda: bool(desk.jobs.submitted))
    only.leases.away = True
    wait_until(lambda: only.leases.holder(f"run:{RUN}") is None)
    time.sleep(0.3)
    assert only.thread.is_alive()
    only.leases.away = False
    desk.jobs.finish.set()
    assert isinstance(only.ended(), dict)
    assert desk.stop_requests() == []


def test_a_database_that_breaks_a_controller_leaves_the_job_running(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = desk.controller().start()
    wait_until(lambda: bool(desk.jobs.submitted))

    def broken(*_arguments: Any, **_keywords: Any) -> None:
        raise DatabaseError("database postgresql://db: terminating connection")

    with monkeypatch.context() as patch:
        patch.setattr(desk.workspace.runs, "transition_attempt", broken)
        desk.jobs.finish.set()
        assert isinstance(only.ended(), DatabaseError)
    assert desk.stop_requests() == []
    assert isinstance(desk.controller().start().ended(), dict)  # the next one finds what the job made
    assert desk.jobs.submitted == ["illume-r1-train-1-1"]


def test_a_person_stops_the_job_and_resuming_starts_another(desk: Desk) -> None:
    first = desk.controller().start()
    wait_until(lambda: bool(desk.jobs.submitted))
    first.stop.set()
    assert isinstance(first.ended(), StoppedError)
    assert [key.rpartition("/")[2] for key in desk.stop_requests()] == ["000001.json"]
    assert desk.state() == "INTERRUPTED"
    desk.jobs.finish.set()
    assert isinstance(desk.controller().start().ended(), dict)
    assert desk.jobs.submitted == ["illume-r1-train-1-1", "illume-r1-train-2-1"]


def test_a_detached_controller_leaves_its_job_and_the_next_follows_it(desk: Desk) -> None:
    first = desk.controller().start()
    wait_until(lambda: bool(desk.jobs.submitted))
    first.detached.set()
    first.stop.set()
    end = first.ended()
    assert isinstance(end, StoppedError)
    assert "detached, its jobs keep running" in str(end)
    assert desk.stop_requests() == []
    assert desk.state() == "INTERRUPTED"
    desk.jobs.finish.set()
    assert isinstance(desk.controller().start().ended(), dict)
    assert desk.jobs.submitted == ["illume-r1-train-1-1"]


def test_a_stop_while_the_cluster_is_away_reaches_the_job_through_the_store(desk: Desk) -> None:
    first = desk.controller().start()
    wait_until(lambda: bool(desk.jobs.submitted))
    desk.jobs.away.set()
    time.sleep(0.1)
    first.stop.set()
    assert isinstance(first.ended(), StoppedError)
    wait_until(lambda: desk.jobs.states["illume-r1-train-1-1"] is JobState.SUCCEEDED)
    desk.jobs.away.clear()
    desk.jobs.finish.set()
    assert isinstance(desk.controller().start().ended(), dict)  # stopped for an earlier driver: started again
    assert desk.jobs.submitted == ["illume-r1-train-1-1", "illume-r1-train-2-2"]


def test_an_attempt_whose_job_is_unknown_to_the_cluster_is_aborted_in_the_store(desk: Desk) -> None:
    first = desk.controller().start()
    wait_until(lambda: bool(desk.jobs.submitted))
    first.detached.set()
    first.stop.set()
    first.ended()
    del desk.jobs.states["illume-r1-train-1-1"]  # a new head; the job goes on where nobody sees it
    second = desk.controller().start()
    wait_until(lambda: len(desk.jobs.submitted) == 2)
    desk.jobs.finish.set()  # both try to commit
    made = second.ended()
    assert isinstance(made, dict), made
    stored = desk.workspace.artifacts.stored(desk.plan.stages[0].key)
    assert stored is not None
    assert stored.commit.attempt == "r1-train-2-1"


def test_a_database_that_came_back_older_makes_no_epoch_twice(desk: Desk) -> None:
    RunEpochs(store=desk.workspace.store, run_id=RUN).claim(5, owner="process 1 on host1")
    desk.jobs.finish.set()
    assert isinstance(desk.controller().start().ended(), dict)
    assert desk.jobs.submitted == ["illume-r1-train-6-1"]
    assert run_status(desk.workspace.database, RUN).run.epoch == 6


def test_whatever_breaks_the_following_of_a_job_starts_no_second_one(desk: Desk) -> None:
    broken: list[Exception] = [KeyError("status"), RuntimeError("odd"), PrecheckError("refused the token")]
    info = Jobs.info

    def odd(jobs: Jobs, job_id: str) -> JobInfo | None:
        if job_id in jobs.states and broken:
            raise broken.pop()
        return info(jobs, job_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Jobs, "info", odd)
        only = desk.controller().start()
        wait_until(lambda: not broken)
        time.sleep(0.1)
        assert only.thread.is_alive()
        desk.jobs.finish.set()
        assert isinstance(only.ended(), dict)
    assert desk.jobs.submitted == ["illume-r1-train-1-1"]


def test_a_job_is_not_submitted_beside_an_earlier_one(desk: Desk) -> None:
    store, earlier = desk.workspace.store, AttemptId.of(RUN, "train", epoch=1, number=1)
    JobRecords(store=store, attempt=earlier).announce()
    desk.jobs.states["illume-r1-train-1-1"] = JobState.RUNNING
    stopped: list[str] = []

    def stop(jobs: Jobs, job_id: str) -> None:
        stopped.append(job_id)
        if len(stopped) == 2:
            jobs.states[job_id] = JobState.STOPPED

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Jobs, "stop", stop)
        patch.setattr(Jobs, "unfinished_jobs", lambda _jobs, _run_id: [])
        RunEpochs(store=store, run_id=RUN).claim(1, owner="process 1 on host1")
        desk.jobs.finish.set()
        assert isinstance(desk.controller().start().ended(), dict)
    assert stopped == ["illume-r1-train-1-1"] * 2
    assert desk.jobs.submitted == ["illume-r1-train-2-1"]


def test_another_run_waits_for_a_job_whose_controller_is_gone(desk: Desk) -> None:
    first = desk.controller().start()
    wait_until(lambda: bool(desk.jobs.submitted))
    first.detached.set()
    first.stop.set()
    first.ended()
    place = desk.workspace
    place.runs.create_run("r2", recipe_name="r", plan_digest=plan_digest(desk.plan), stages=stage_rows(desk.plan))
    result: list[Any] = []
    other = Executor(
        artifacts=place.artifacts, history=place.runs, leases=place.leases, cluster=place.cluster, state=place.root
    )
    thread = threading.Thread(target=lambda: result.append(other.run(desk.plan, "r2")), daemon=True)
    thread.start()
    wait_until(lambda: any(event.kind == "waiting" for event in place.runs.events("r2")))
    event = next(event for event in place.runs.events("r2") if event.kind == "waiting")
    assert "run r1 (its driver is gone, its job illume-r1-train-1-1 is running; `illume resume r1`" in str(event.fields)
    desk.jobs.finish.set()
    thread.join(20)
    assert set(result[0]) == {"train"}
    assert desk.jobs.submitted == ["illume-r1-train-1-1"]  # nothing was paid twice


def test_a_job_that_is_cancelled_beside_its_controller_ends_the_run_as_cancelled(desk: Desk) -> None:
    only = desk.controller().start()
    wait_until(lambda: desk.state() == "RUNNING" and bool(desk.jobs.submitted))
    assert desk.workspace.cancel(RUN).end == "asked"
    end = only.ended()
    assert isinstance(end, CancelledError), end
    assert desk.state() == "CANCELLED"


def test_a_job_that_stopped_with_its_machines_was_not_stopped_by_a_person(desk: Desk) -> None:
    """Its driver knows of a SIGTERM alone; that the machines were taken, the cluster says once the job has ended."""
    only = desk.controller().start()
    wait_until(lambda: desk.state() == "RUNNING" and bool(desk.jobs.submitted))
    desk.jobs.taken.set()
    wait_until(lambda: len(desk.jobs.submitted) == 2)
    desk.jobs.finish.set()
    assert isinstance(only.ended(), dict)
    (retry,) = [event for event in desk.workspace.runs.events(RUN) if event.kind == "retry"]
    assert retry.fields["failure_class"] == "preempted"


def test_a_job_that_left_its_machines_is_ended_where_the_cluster_keeps_it(desk: Desk) -> None:
    """Kueue has it in the queue again, and would start it before the attempt that goes on."""
    desk.jobs.keeps.set()
    only = desk.controller().start()
    wait_until(lambda: bool(desk.jobs.submitted))
    desk.jobs.taken.set()
    wait_until(lambda: len(desk.jobs.submitted) == 2)
    assert desk.jobs.stopped == desk.jobs.submitted[:1]
    desk.jobs.finish.set()
    assert isinstance(only.ended(), dict)


def test_a_cluster_that_went_with_the_machines_of_a_job_is_not_asked_how_it_ended(desk: Desk) -> None:
    desk.jobs.keeps.set()
    only = desk.controller().start()
    wait_until(lambda: desk.state() == "RUNNING" and bool(desk.jobs.submitted))
    desk.jobs.away.set()
    desk.jobs.taken.set()
    wait_until(lambda: len(desk.jobs.submitted) == 2)
    desk.jobs.away.clear()
    desk.jobs.finish.set()
    assert isinstance(only.ended(), dict)


def test_a_run_without_a_controller_is_cancelled_with_its_job(desk: Desk) -> None:
    first = desk.controller().start()
    wait_until(lambda: bool(desk.jobs.submitted))
    first.detached.set()
    first.stop.set()
    first.ended()
    done = desk.workspace.cancel(RUN, patience_s=20.0)
    assert (done.end, done.jobs) == ("cancelled", ())
    assert desk.jobs.states["illume-r1-train-1-1"] is JobState.SUCCEEDED
    assert desk.state() == "CANCELLED"
    assert desk.workspace.runs.open_attempts(RUN) == []
    with pytest.raises(StateConflictError, match="has ended as CANCELLED; there is nothing to cancel"):
        desk.workspace.cancel(RUN)
    desk.jobs.finish.set()
    assert isinstance(desk.controller().start().ended(), dict)  # a person may still want it again
    assert desk.jobs.submitted == ["illume-r1-train-1-1", "illume-r1-train-3-1"]


@pytest.mark.parametrize("is_numbered", [True, False])
def test_a_new_controller_forwards_each_metric_once_whatever_the_clock_of_the_job_says(
    database: Database, tell_story: Callable[[Database, str], Any], tmp_path: Path, is_numbered: bool
) -> None:
    """The first controller dies between recording a batch and deleting it; meanwhile the clock is set back."""
    history, leases = tell_story(database, RUN).run_store, Leases(database)
    store = open_store(tmp_path / "store")
    times = iter([1000.0, 400.0, 400.0] if is_numbered else [1000.0, 1000.001, 1000.002])
    attempt = AttemptId(run_id=RUN, stage_id="clean", epoch=0, name=f"{RUN}-clean-3-1")
    records = JobRecords(store=store, attempt=attempt)
    tracker = StoreTracker(records, warn=pytest.fail, wall_clock=lambda: next(times))

    def flush() -> None:
        if is_numbered:
            tracker._flush()
        elif (batch := tracker._take()) is not None:  # as older versions wrote it
            batch.pop("first_point")
            records.put_telemetry(tracker._num_points, batch)

    def take_over() -> _TelemetryForwarder:
        database.write(lambda connection: connection.execute(update(schema.leases).values(owner="")))
        lease = leases.acquire(f"run:{RUN}")
        assert lease is not None
        own = AttemptId(run_id=RUN, stage_id="clean", epoch=history.begin_epoch(RUN, lease), name=attempt.name)
        guard = EpochGuard(epochs=RunEpochs(store=store, run_id=RUN), epoch=own.epoch)
        return _TelemetryForwarder(records, history.telemetry.tracker(own), history, own, guard)

    tracker.log_metrics({"loss": 3.0}, step=1)
    tracker.log_metrics({"loss": 2.0}, step=2)
    flush()
    kept = [(item.key, store.get(item.key)) for item in store.list(f"runs/{RUN}/jobs/{attempt}/telemetry")]
    take_over().forward()
    for key, data in kept:
        assert data is not None
        store.put_new(key, data)
    tracker.log_metrics({"loss": 1.0}, step=3)
    flush()
    second = take_over()
    second.forward()
    second.forward()
    found = [event for event in history.events(RUN) if event.attempt_id == attempt.name and event.kind == "metrics"]
    assert [point[2] for event in found for point in event.fields["points"]] == [1, 2, 3]  # type: ignore[union-attr]
    assert [event.fields["first"] for event in found] == [0, 2]
    history.close()
