"""What passes between training workers and their driver."""

from stages.training.watching.notices import Notice
from stages.training.workers.reports import WorkerReports


def test_each_step_is_reported_once_and_processes_stay_known() -> None:
    reports = WorkerReports()
    reports.register(1, "node", 7)
    reports.send(0, 1, [(1, {"loss": 2.0})])
    reports.send(0, 3, [(2, {}), (3, {})])
    reports.send(1, 2, [])
    reports.notify(Notice(kind="found"))
    first = reports.collect(False)
    assert [step for step, _ in first.steps] == [1, 2, 3]
    assert first.newest_steps == {0: 3, 1: 2}
    assert [notice.kind for notice in first.notices] == ["found"]
    second = reports.collect(False)
    assert second.notices == []
    assert second.steps == []
    assert first.processes == second.processes == {1: ("node", 7)}


def test_a_stop_request_reaches_the_workers_and_cannot_be_taken_back() -> None:
    reports = WorkerReports()
    assert reports.send(0, 0, []) is False
    reports.collect(True)
    assert reports.send(0, 0, []) is True
    reports.collect(False)
    assert reports.send(0, 0, []) is True


def test_the_first_error_is_the_one_that_is_reported() -> None:
    reports = WorkerReports()
    assert reports.collect(False).error is None
    first = ValueError("first")
    reports.fail(first)
    reports.fail(ValueError("second"))
    assert reports.collect(False).error is first
