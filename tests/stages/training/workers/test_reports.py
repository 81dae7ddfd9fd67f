"""What passes between training workers and their driver."""

from stages.training.workers.reports import WorkerReports


def test_each_step_is_reported_once_and_processes_stay_known() -> None:
    reports = WorkerReports()
    reports.register(1, "node", 7)
    reports.send([(1, {"loss": 2.0})])
    reports.send([(2, {}), (3, {})])
    first = reports.collect(False)
    assert [step for step, _ in first.steps] == [1, 2, 3]
    second = reports.collect(False)
    assert second.steps == []
    assert first.processes == second.processes == {1: ("node", 7)}


def test_a_stop_request_reaches_the_workers_and_cannot_be_taken_back() -> None:
    reports = WorkerReports()
    assert reports.send([]) is False
    reports.collect(True)
    assert reports.send([]) is True
    reports.collect(False)
    assert reports.send([]) is True


def test_the_first_error_is_the_one_that_is_reported() -> None:
    reports = WorkerReports()
    assert reports.collect(False).error is None
    first = ValueError("first")
    reports.fail(first)
    reports.fail(ValueError("second"))
    assert reports.collect(False).error is first
