import pytest

from orchestrator.artifacts.run_records import RunRecords
from orchestrator.errors import StoreError
from orchestrator.store.store import Store


@pytest.fixture
def records(store: Store) -> RunRecords:
    return RunRecords(store)


def test_plans_and_runs_are_written_once(records: RunRecords) -> None:
    records.put_plan("d1", {"stages": [1]})
    records.put_plan("d1", {"stages": [1]})
    assert records.plan("d1") == {"stages": [1]}
    assert records.plan("d2") is None
    assert records.put_run("run-1", {"recipe": "quick"})
    assert not records.put_run("run-1", {"recipe": "other"})
    assert list(records.runs()) == [("run-1", {"recipe": "quick"})]


def test_events_come_back_in_the_order_of_epochs_and_segments(records: RunRecords) -> None:
    for epoch, seq in [(2, 0), (1, 10), (1, 9), (10, 0)]:
        assert records.append_events("run-1", epoch, seq, [{"at": f"{epoch}-{seq}"}, {"text": "line\nbreak"}])
    found = [event["at"] for event in records.events("run-1") if "at" in event]
    assert found == ["1-9", "1-10", "2-0", "10-0"]
    assert len(list(records.events("run-1"))) == 8
    assert [records.next_seq("run-1", epoch) for epoch in (1, 2, 3)] == [11, 1, 0]


def test_a_segment_is_written_once_so_a_doubled_driver_notices(records: RunRecords) -> None:
    assert records.append_events("run-1", 1, 0, [{"driver": "first"}])
    assert not records.append_events("run-1", 1, 0, [{"driver": "second"}])
    assert list(records.events("run-1")) == [{"driver": "first"}]


def test_junk_is_skipped(records: RunRecords) -> None:
    records.put_run("run-1", {"recipe": "quick"})
    records.append_events("run-1", 1, 0, [{"good": 1}])
    records.store.put_new("runs/run-2/RUN.json", b'{"cut')
    records.store.put_new("runs/run-3/logs/a.log", b"no start record")
    records.store.put_new("runs/run-1/events-000001-000000001.jsonl", b'{"good":2}\n{"cut\n[3]\n')
    records.store.put_new("runs/run-1/events-junk.jsonl", b"x")
    assert [run_id for run_id, _ in records.runs()] == ["run-1"]
    assert list(records.events("run-1")) == [{"good": 1}, {"good": 2}]


@pytest.mark.parametrize("run_id", ["", "a/b", "..", "."])
def test_an_id_that_would_leave_its_folder_is_refused(records: RunRecords, run_id: str) -> None:
    with pytest.raises(StoreError, match="expected one part of a path"):
        records.put_run(run_id, {})


def test_a_negative_segment_is_refused(records: RunRecords) -> None:
    with pytest.raises(StoreError, match="expected whole numbers from 0"):
        records.append_events("run-1", -1, 0, [])
