"""What a stage driver says through the store arrives once, in order, whoever reads it and whatever is cut off."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import StoreError
from orchestrator.execution.job_records import JobOutcome, JobRecords, StoreTracker
from orchestrator.failures.classes import FailureClass, report_of
from orchestrator.store.store import open_store


@pytest.fixture
def records(tmp_path: Path) -> JobRecords:
    return JobRecords(store=open_store(tmp_path / "store"), run_id="r1", attempt_id="r1-a-1-1")


class Weather:
    """A store that fails as it is told, or does what it is asked and then fails."""

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


def told(records: JobRecords) -> tuple[list[Any], list[Any]]:
    """Points and events of all batches, each once."""
    points, said = [], []
    for batch in records.telemetry():
        points += [point[:3] for point in batch.points]
        said += batch.said[max(0, len(said) - batch.first_said) :]
    return points, said


def test_what_is_said_lies_in_the_store_in_order(records: JobRecords) -> None:
    with StoreTracker(records, warn=pytest.fail) as tracker:
        for step in range(3):
            tracker.log_metrics({"loss": 1.0 / (step + 1), "gone": float("nan")}, step=step)
            tracker._flush()
        tracker.log_event("noted", {"what": "this"})
        tracker.progress(3, 9, "steps")
    points, said = told(records)
    assert [(name, step) for name, _, step in points] == [
        (name, step) for step in range(3) for name in ("loss", "gone")
    ]
    assert points[0][1] == 1.0
    assert points[1][1] != points[1][1]  # not a number, and still there
    assert said == [("noted", {"what": "this"})]
    assert [batch.progress for batch in records.telemetry()][-1] == (3, 9, "steps")


@pytest.mark.parametrize("trouble", ["before", "behind"])
def test_a_store_that_is_away_for_a_while_gets_everything_once(records: JobRecords, trouble: str) -> None:
    weather = Weather(records.store)
    warnings: list[str] = []
    broken = JobRecords(store=weather, run_id=records.run_id, attempt_id=records.attempt_id)
    with StoreTracker(broken, warn=warnings.append) as tracker:
        setattr(weather, trouble, 2)
        for step in range(4):
            tracker.log_metrics({"loss": float(step)}, step=step)
            tracker.log_event("noted", {"step": step})
            tracker._flush()
    assert warnings
    points, said = told(records)
    assert [step for _, _, step in points] == [0, 1, 2, 3]
    assert [fields["step"] for _, fields in said] == [0, 1, 2, 3]


def test_nothing_said_is_nothing_written(records: JobRecords) -> None:
    with StoreTracker(records, warn=pytest.fail):
        pass
    assert list(records.telemetry()) == []


def test_the_first_outcome_counts(records: JobRecords) -> None:
    assert records.outcome() is None
    failure = report_of(ValueError("found 3, expected 4"))
    records.put_outcome(JobOutcome(failure=failure, progressed=True))
    records.put_outcome(JobOutcome(stopped="too late"))
    found = records.outcome()
    assert found == JobOutcome(failure=failure, progressed=True)
    assert found.failure is not None
    assert found.failure.failure is FailureClass.USER_CODE


def test_a_wish_to_stop_is_seen_and_may_be_repeated(records: JobRecords) -> None:
    assert not records.is_stop_asked()
    records.ask_stop()
    records.ask_stop()
    assert records.is_stop_asked()
