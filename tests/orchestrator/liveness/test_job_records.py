"""Records of a stage driver in the store arrive once and in order, whichever reader and whatever is interrupted."""

import json
import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.run_epochs import RunEpochs
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import StoreError
from orchestrator.failures.classes import report_of
from orchestrator.failures.failure_class import FailureClass
from orchestrator.liveness import job_records
from orchestrator.liveness.job_records import JobOutcome, JobRecords, StoreTracker
from orchestrator.store.store import open_store


@pytest.fixture
def records(tmp_path: Path) -> JobRecords:
    return JobRecords(store=open_store(tmp_path / "store"), attempt=AttemptId.of("r1", "a", epoch=1, number=1))


class Weather:
    """A store that fails on request, before or after it has done the operation."""

    def __init__(self, store: Any) -> None:
        self.store, self.before, self.behind = store, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def put_new(self, key: str, data: bytes) -> bool:
        if self.before:
            self.before -= 1
            raise StoreError("away")
        made: bool = self.store.put_new(key, data)
        if self.behind:
            self.behind -= 1
            raise StoreError("the answer was lost")
        return made


def received(records: JobRecords) -> tuple[list[Any], list[Any]]:
    """Points and events of all batches, each once."""
    points, events = [], []
    for batch in records.telemetry():
        points += [point[:3] for point in batch.points]
        events += batch.events[max(0, len(events) - batch.first_event) :]
    return points, events


def test_telemetry_is_in_the_store_in_order(records: JobRecords) -> None:
    with StoreTracker(records, warn=pytest.fail) as tracker:
        for step in range(3):
            tracker.log_metrics({"loss": 1.0 / (step + 1), "gone": float("nan")}, step=step)
            tracker._flush()
        tracker.log_event("noted", {"what": "this"})
        tracker.progress(3, 9, "steps")
    points, events = received(records)
    assert [(name, step) for name, _, step in points] == [
        (name, step) for step in range(3) for name in ("loss", "gone")
    ]
    assert points[0][1] == 1.0
    assert points[1][1] != points[1][1]  # not a number, and still there
    assert events == [("noted", {"what": "this"})]
    assert [batch.progress for batch in records.telemetry()][-1] == (3, 9, "steps")
    names = [batch.key.rpartition("/")[2] for batch in records.telemetry()]
    assert [batch.first_event for batch in records.telemetry()] == [0, 0, 0, 0]
    assert names == [f"{number:09d}.json" for number in range(4)]  # in their order also for other versions


@pytest.mark.parametrize("trouble", ["before", "behind"])
def test_a_store_that_is_away_for_a_while_gets_everything_once(records: JobRecords, trouble: str) -> None:
    weather = Weather(records.store)
    warnings: list[str] = []
    broken = JobRecords(store=weather, attempt=records.attempt)
    with StoreTracker(broken, warn=warnings.append) as tracker:
        setattr(weather, trouble, 2)
        for step in range(4):
            tracker.log_metrics({"loss": float(step)}, step=step)
            tracker.log_event("noted", {"step": step})
            tracker._flush()
    assert warnings
    points, events = received(records)
    assert [step for _, _, step in points] == [0, 1, 2, 3]
    assert [fields["step"] for _, fields in events] == [0, 1, 2, 3]


def test_closing_waits_for_a_batch_that_is_being_written(records: JobRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_records, "FLUSH_S", 0.0)
    writing = threading.Event()

    class Slow(Weather):
        def put_new(self, key: str, data: bytes) -> bool:
            if threading.current_thread().name == "telemetry":
                writing.set()
                time.sleep(0.3)
            return super().put_new(key, data)

    with StoreTracker(JobRecords(store=Slow(records.store), attempt=records.attempt), warn=pytest.fail) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=0)
        assert writing.wait(60.0)
        tracker.log_metrics({"loss": 2.0}, step=1)
    assert "telemetry" not in {thread.name for thread in threading.enumerate()}
    assert [step for _, _, step in received(records)[0]] == [0, 1]


def test_without_telemetry_nothing_is_written(records: JobRecords) -> None:
    with StoreTracker(records, warn=pytest.fail):
        pass
    assert list(records.telemetry()) == []


def test_metrics_are_numbered_and_their_stamps_are_those_of_the_clock(records: JobRecords) -> None:
    times = iter([1000.0, 1000.0, 400.0, 400.5])  # ten minutes back
    with StoreTracker(records, warn=pytest.fail, wall_clock=lambda: next(times)) as tracker:
        for step in range(4):
            tracker.log_metrics({"loss": 1.0}, step=step)
            tracker._flush()
    batches = list(records.telemetry())
    assert [batch.first_point for batch in batches] == [0, 1, 2, 3]
    assert [point[3] for batch in batches for point in batch.points] == [1000.0, 1000.0, 400.0, 400.5]


def test_the_first_outcome_wins(records: JobRecords) -> None:
    assert records.outcome() is None
    failure = report_of(ValueError("found 3, expected 4"))
    records.put_outcome(JobOutcome(failure=failure, progressed=True))
    records.put_outcome(JobOutcome(stopped="too late"))
    found = records.outcome()
    assert found == JobOutcome(failure=failure, progressed=True)
    assert found.failure is not None
    assert found.failure.failure is FailureClass.USER_CODE


def test_a_stop_request_is_seen_and_may_be_repeated(records: JobRecords, caplog: pytest.LogCaptureFixture) -> None:
    assert not records.is_stop_requested()
    records.request_stop()
    records.request_stop()
    assert records.is_stop_requested()
    assert caplog.text == ""
    (key,) = (item.key for item in records.store.list(f"runs/{records.attempt.run_id}"))
    assert key.endswith(f"/jobs/{records.attempt}/stop/000001.json")
    record = json.loads(records.store.get(key) or b"")
    assert {**record, "nonce": ""} == {"format": 1, "epoch": 1, "nonce": ""}


def of_epoch(records: JobRecords, epoch: int) -> JobRecords:
    return JobRecords(store=records.store, attempt=replace(records.attempt, epoch=epoch))


def test_only_the_newest_epoch_stops_a_job(records: JobRecords) -> None:
    """A controller that was frozen beyond its lease may still write its request."""
    epochs = RunEpochs(store=records.store, run_id=records.attempt.run_id)
    epochs.claim(1, owner="process 1 on host1")
    epochs.claim(2, owner="process 2 on host2")
    of_epoch(records, 1).request_stop()
    assert not records.is_stop_requested()
    assert of_epoch(records, 2).was_stopped_for_another()
    of_epoch(records, 2).request_stop()
    assert records.is_stop_requested()
    assert not of_epoch(records, 2).was_stopped_for_another()


def test_a_stop_request_that_nobody_can_have_made_is_named_once_and_ignored(
    records: JobRecords, caplog: pytest.LogCaptureFixture
) -> None:
    RunEpochs(store=records.store, run_id=records.attempt.run_id).claim(2, owner="process 1 on host1")
    of_epoch(records, 99).request_stop()
    folder = f"runs/{records.attempt.run_id}/jobs/{records.attempt}/stop"
    records.store.put_new(f"{folder}/now.json", b"")
    with caplog.at_level(logging.WARNING):
        assert not any([records.is_stop_requested(), records.is_stop_requested()])
    lines = [record.getMessage() for record in caplog.records]
    assert (
        len([line for line in lines if f"{folder}/000099.json: ignored, as the run's newest epoch is 2" in line]) == 1
    )
    assert sum(f"{folder}/now.json: ignored" in line for line in lines) == 1
    assert len(list(records.store.list(folder))) == 2
