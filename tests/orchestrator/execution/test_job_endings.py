"""How a job ends without the outcome that its attempt would leave, and what its controller makes of that.

The cluster is a double that gives one answer after another; the store is real.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.run_epochs import EpochGuard, RunEpochs
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.jobs import JobInfo, JobState
from orchestrator.errors import CancelledError, DetachedError, NodeLostError, StoreError
from orchestrator.execution import job_attempt
from orchestrator.execution.job_attempt import JobAttempt, stage_driver_arguments
from orchestrator.failures.classes import classified, classify, report_of
from orchestrator.failures.failure_class import FailureClass
from orchestrator.history.run_store import ForwardedTelemetry
from orchestrator.liveness.job_records import JobOutcome, JobRecords
from orchestrator.store.store import open_store

RUN = "r1"
RUNNING = JobInfo(state=JobState.RUNNING, message="")


@dataclass
class Head:
    """A cluster that gives one answer after the other about its jobs, the last one for good."""

    answers: list[JobInfo | Exception | None] = field(default_factory=list)
    output: str | Exception = ""
    refusals: list[Exception] = field(default_factory=list)
    submitted: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def submit(self, job_id: str, arguments: str, metadata: dict[str, str]) -> None:
        self.submitted.append(f"{job_id} {metadata}")
        if self.refusals:
            raise self.refusals.pop(0)

    def info(self, job_id: str) -> JobInfo | None:
        self.asked.append(job_id)
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def unfinished_jobs(self, run_id: str) -> list[str]:
        return []

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)

    def logs(self, job_id: str) -> str:
        if isinstance(self.output, Exception):
            raise self.output
        return self.output


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_attempt, "POLL_S", 0.01)


def followed(head: Head, folder: Path, *, stage_id: str = "steps") -> JobAttempt:
    attempt = AttemptId.of(RUN, stage_id, epoch=1, number=1)
    planned = SimpleNamespace(id=stage_id, key=ArtifactKey("tokenize", "a" * 64))
    request = SimpleNamespace(attempt=attempt, planned=planned, memory_halvings=0, avoided_nodes=frozenset())
    store = open_store(folder / "store")
    told = ForwardedTelemetry(num_points=0, newest_point_at=0.0, num_events=0)
    history = SimpleNamespace(
        forwarded_up_to=lambda _name: told,
        telemetry=SimpleNamespace(continue_from=lambda _name, _points: None),
        record=lambda *_arguments, **_keywords: None,
    )
    parts: dict[str, Any] = {"request": request, "jobs": head, "artifacts": ArtifactStore(store, folder / "cache")}
    parts |= {"history": history, "tracker": None}
    guard = EpochGuard(epochs=RunEpochs(store=store, run_id=RUN), epoch=1)
    return JobAttempt(**parts, plan_digest="0", stop=threading.Event(), guard=guard)


def put_outcome(job: JobAttempt, outcome: JobOutcome) -> None:
    JobRecords(store=job.artifacts.store, attempt=job.request.attempt).put_outcome(outcome)


@pytest.mark.parametrize(
    ("info", "output", "message"),
    [
        (
            None,
            "",
            "job illume-r1-steps-1-1 is not known to the cluster any more and left no outcome; it printed nothing",
        ),
        (
            JobInfo(state=JobState.FAILED, message="exit code 137"),
            "\n".join(map(str, range(30))),
            "ended as FAILED: exit code 137 and left no outcome; its last lines:\n"
            + "\n".join(map(str, range(10, 30))),
        ),
        (
            JobInfo(state=JobState.SUCCEEDED, message=""),
            NodeLostError("no agent"),
            "left no outcome; its output cannot be read: no agent",
        ),
    ],
)
def test_a_job_without_an_outcome_is_lost_and_its_last_lines_are_shown(
    info: JobInfo | None, output: str | Exception, message: str, tmp_path: Path
) -> None:
    job = followed(Head(answers=[RUNNING, info], output=output), tmp_path)
    with pytest.raises(NodeLostError) as raised:
        job._follow()
    assert message in str(raised.value)


def test_a_job_whose_machines_were_taken_before_it_could_say_so_is_preempted(tmp_path: Path) -> None:
    job = followed(Head(answers=[RUNNING, JobInfo(state=JobState.PREEMPTED, message="node drained")]), tmp_path)
    with pytest.raises(Exception, match="job illume-r1-steps-1-1 was ended: node drained") as raised:
        job._follow()
    assert classify(raised.value) is FailureClass.PREEMPTED


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (JobOutcome(stopped="SIGTERM"), FailureClass.PREEMPTED),
        (JobOutcome(failure=report_of(NodeLostError("a worker died"))), FailureClass.PREEMPTED),
        (JobOutcome(failure=report_of(KeyError("colour"))), FailureClass.USER_CODE),
        (JobOutcome(progressed=True), None),
    ],
)
def test_what_a_job_left_behind_counts_as_preempted_only_if_it_was_cut(
    outcome: JobOutcome, expected: FailureClass | None, tmp_path: Path
) -> None:
    job = followed(Head(answers=[JobInfo(state=JobState.PREEMPTED, message="node drained")]), tmp_path)
    put_outcome(job, outcome)
    found = job._follow()
    assert (found.failure.failure if found.failure else None) == expected
    assert found.stopped == ""
    assert found.progressed == outcome.progressed


def test_the_reason_of_a_stop_is_waited_for_until_the_cluster_has_ended_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_attempt, "POLLS_FOR_REASON", 5)
    patient = Head(answers=[*[RUNNING] * 4, JobInfo(state=JobState.PREEMPTED, message="node drained")])
    job = followed(patient, tmp_path / "ends")
    put_outcome(job, JobOutcome(stopped="SIGTERM"))
    assert job._follow().failure is not None
    endless = Head(answers=[RUNNING])
    job = followed(endless, tmp_path / "stays")
    put_outcome(job, JobOutcome(stopped="SIGTERM"))
    assert job._follow() == JobOutcome(stopped="SIGTERM")
    assert len(endless.asked) == 5 + 2  # one poll that finds it, five for the reason, one more
    head = Head(answers=[RUNNING])
    asked_to = followed(head, tmp_path / "asked")
    asked_to._is_asked_to_stop = True  # the reason is known
    put_outcome(asked_to, JobOutcome(stopped="told to stop"))
    assert asked_to._follow() == JobOutcome(stopped="told to stop")
    assert len(head.asked) == 2


def test_an_outcome_other_than_a_stop_needs_no_word_of_the_cluster(tmp_path: Path) -> None:
    head = Head(answers=[RUNNING])
    job = followed(head, tmp_path)
    put_outcome(job, JobOutcome(progressed=True))
    assert job._follow() == JobOutcome(progressed=True)
    assert len(head.asked) == 2


def test_a_driver_that_must_end_while_the_cluster_is_away_says_whether_the_job_was_asked_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = NodeLostError("the head does not answer")
    job = followed(Head(answers=[away]), tmp_path / "asked")
    job.stop.set()
    with pytest.raises(DetachedError, match="not followed any more; it is asked to stop: the head does not answer"):
        job._follow()
    assert JobRecords(store=job.artifacts.store, attempt=job.request.attempt).is_stop_requested()
    detached = followed(Head(answers=[away]), tmp_path / "detached")
    detached.detached.set()
    detached.stop.set()
    with pytest.raises(DetachedError, match="not followed any more; the job keeps running"):
        detached._follow()
    assert not JobRecords(store=detached.artifacts.store, attempt=detached.request.attempt).is_stop_requested()

    def refuse(_records: JobRecords) -> None:
        raise StoreError("the store is away")

    monkeypatch.setattr(JobRecords, "request_stop", refuse)
    cut_off = followed(Head(answers=[away]), tmp_path / "cut_off")
    cut_off.stop.set()
    with pytest.raises(DetachedError, match="it cannot be asked to stop and keeps running"):
        cut_off._follow()


def test_a_submission_whose_answer_was_lost_is_followed_if_the_job_is_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_attempt, "SUBMIT_TIMEOUT_S", -1.0)
    cut = NodeLostError("the answer was cut")
    head = Head(answers=[RUNNING], refusals=[cut])
    job = followed(head, tmp_path / "running")
    job._records.announce()
    job._submit()
    assert head.submitted == ["illume-r1-steps-1-1 {'run': 'r1', 'stage': 'steps'}"]
    lost = followed(Head(answers=[None], refusals=[cut]), tmp_path / "lost")
    lost._records.announce()
    with pytest.raises(NodeLostError, match="the answer was cut"):
        lost._submit()


def test_a_stop_while_a_job_is_submitted_ends_that_unless_the_driver_only_detaches(tmp_path: Path) -> None:
    refusal = NodeLostError("no agent")
    job = followed(Head(refusals=[refusal]), tmp_path)
    job.stop.set()
    with pytest.raises(CancelledError, match="illume-r1-steps-1-1: stopped before the cluster accepted it"):
        job._submit()
    job = followed(Head(refusals=[refusal]), tmp_path)
    job.stop.set()
    job.detached.set()
    with pytest.raises(DetachedError):
        job._submit()


def test_only_earlier_attempts_at_the_same_stage_hold_a_submission_back(tmp_path: Path) -> None:
    head = Head(answers=[RUNNING])
    job = followed(head, tmp_path, stage_id="train")
    for stage_id in ("train-2", "other"):  # "r1-train-2-1-1" begins with the name of the stage, too
        other = AttemptId.of(RUN, stage_id, epoch=1, number=1)
        JobRecords(store=job.artifacts.store, attempt=other).announce()
    job._records.announce()
    job._submit()
    assert (len(head.submitted), head.stopped) == (1, [])
    earlier = AttemptId.of(RUN, "train", epoch=1, number=7)
    JobRecords(store=job.artifacts.store, attempt=earlier).announce()
    job.stop.set()
    with pytest.raises(CancelledError):
        job._submit()
    assert head.stopped == ["illume-r1-train-1-7"]
    head.answers = [NodeLostError("the head does not answer")]
    with pytest.raises(CancelledError):  # unknown: neither stopped nor passed by
        job._submit()
    assert (len(head.submitted), head.stopped) == (1, ["illume-r1-train-1-7"])


def test_whether_a_job_is_running_is_asked_until_the_cluster_says_so(tmp_path: Path) -> None:
    away = NodeLostError("the head does not answer")
    job = followed(Head(answers=[away, away, RUNNING]), tmp_path)
    job._records.announce()
    assert job._is_running()
    job = followed(Head(answers=[away]), tmp_path)
    job.stop.set()
    with pytest.raises(DetachedError, match="whether it is running is unknown"):
        job._is_running()
    assert job._records.is_stop_requested()


def test_a_driver_that_only_detaches_asks_no_job_to_stop_though_nobody_knows_whether_it_is_running(
    tmp_path: Path,
) -> None:
    job = followed(Head(answers=[NodeLostError("the head does not answer")]), tmp_path)
    job._records.announce()
    job.stop.set()
    job.detached.set()
    with pytest.raises(DetachedError, match="the job keeps running"):
        job._is_running()
    assert not job._records.is_stop_requested()


@pytest.mark.parametrize("before", [None, 10])
def test_a_checkpoint_of_a_lost_job_is_progress_if_it_is_newer_than_those_before(
    before: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = followed(Head(), tmp_path)
    kind = SimpleNamespace(name="tokenize")
    monkeypatch.setattr(job.request.planned, "spec", SimpleNamespace(kind=kind), raising=False)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/file").write_bytes(b"w")
    checkpoints = StoredCheckpoints(
        store=job.artifacts.store, cache=tmp_path / "c", key=job.request.planned.key, attempt=job.request.attempt
    )
    if before:
        checkpoints.commit(before, tmp_path / "weights", {})
    job._step_before = before
    assert not job.progressed()
    checkpoints.commit(20, tmp_path / "weights", {})
    assert job.progressed()


def test_the_words_of_a_stage_driver_name_attempt_epoch_and_what_to_avoid() -> None:
    attempt = AttemptId.of(RUN, "steps", epoch=3, number=2)
    plain = f"stage-driver r1 steps {attempt.name} --plan d --epoch 3 --memory-halvings 0 --store s"
    assert stage_driver_arguments(attempt, "d", "s") == plain
    whole = stage_driver_arguments(attempt, "d", "my store", memory_halvings=2, avoided_nodes={"b", "a"})
    assert whole == (
        f"stage-driver r1 steps {attempt.name} --plan d --epoch 3 --memory-halvings 2 --avoid-node a --avoid-node b "
        "--store 'my store'"
    )


def test_a_failure_of_the_job_is_raised_with_its_class(tmp_path: Path) -> None:
    head = Head(answers=[JobInfo(state=JobState.FAILED, message="")])
    job = followed(head, tmp_path)
    put_outcome(job, JobOutcome(failure=report_of(classified(FailureClass.NUMERIC, "loss nan")), progressed=True))
    with pytest.raises(Exception, match="loss nan") as raised:
        job.run(lambda: None)
    assert classify(raised.value) is FailureClass.NUMERIC
    assert job.progressed()
    assert head.submitted == []  # what has an outcome is not submitted
