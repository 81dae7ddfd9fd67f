"""Mistakes in the code of a stage: one sentence that names the stage, what was found, and what was expected."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import StageCodeError, StageFailedError
from orchestrator.execution.stage_checks import CheckedTracker, checked_metrics
from orchestrator.stage import StageContext
from tests.orchestrator.execution import test_executor
from tests.orchestrator.execution.test_executor import NUMBER, TROUBLES, Site, stage

site = test_executor.site
LEFT_OPEN: list[Any] = []


class Tensor:
    """A number of a library."""

    def __float__(self) -> float:
        return 0.5


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log_metrics(self, metrics: Any, *, step: int) -> None:
        self.calls.append((metrics, step))

    def progress(self, done: int, total: int, unit: str) -> None:
        self.calls.append((done, total, unit))

    def log_event(self, kind: str, fields: Any) -> None:
        self.calls.append((kind, fields))


def test_metrics_are_plain_numbers() -> None:
    found = checked_metrics("s", {"a": 1, "b": True, "c": Tensor(), "d": Decimal("2.5")})
    assert found == {"a": 1.0, "b": 1.0, "c": 0.5, "d": 2.5}
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "s: found NoneType, expected a mapping from names of metrics to numbers"),
        ([("a", 1)], "s: found list, expected a mapping"),
        ({"a": "1"}, "s: a: found '1' of type str, expected a number"),
        ({"a": [1, 2]}, r"s: a: found '\[1, 2\]' of type list, expected a number"),
        ({"a": None}, "s: a: found 'None' of type NoneType"),
        ({"a": 10**400}, "of type int, expected a number"),
        ({1: 2.0}, "s: found 1 as the name of a metric, expected text"),
    ],
)
def test_metrics_that_are_no_numbers_are_refused(found: object, message: str) -> None:
    with pytest.raises(StageCodeError, match=message):
        checked_metrics("s", found)


def test_the_tracker_refuses_what_cannot_be_recorded_where_it_is_passed() -> None:
    recorder = Recorder()
    tracker: Any = CheckedTracker(tracker=recorder, stage_id="s")
    tracker.log_metrics({"loss": Tensor()}, step=3)
    tracker.progress(1, 2, "steps")
    tracker.log_event("rolled_back", {"to": 7})
    assert recorder.calls == [({"loss": 0.5}, 3), (1, 2, "steps"), ("rolled_back", {"to": 7})]
    for call, message in (
        (lambda: tracker.log_metrics({"loss": "low"}, step=3), "s: tracker.log_metrics: loss: found 'low'"),
        (lambda: tracker.log_metrics({"loss": 1}, step=None), "s: tracker.log_metrics: step: found 'None'"),
        (lambda: tracker.progress(None, 2, "steps"), "s: tracker.progress: done: found 'None'"),
        (lambda: tracker.log_event("wrote", {"file": Path("x")}), "s: tracker.log_event: wrote: file: .* no obvious"),
    ):
        with pytest.raises(StageCodeError, match=message):
            call()
    assert len(recorder.calls) == 3


def leave_open(context: StageContext) -> None:
    LEFT_OPEN.append((context.output / "rows.csv").open("w"))


def write_into_input(context: StageContext) -> None:
    (context.input("more").path / "extra.txt").write_text("here?")


def adopt_unknown(context: StageContext) -> None:
    context.adopt(type("Record", (), {"shard": "s-1", "fingerprint": "0" * 64, "files": ()})())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("slip", "message"),
    [
        (lambda context: context.input("mor"), "declares no input slot 'mor'; did you mean 'more'?"),
        (lambda context: context.inputs("words"), "declares no input slot 'words'; expected one of: more"),
        (lambda context: (context.output / "link").symlink_to("/etc"), "the output cannot be committed: .*link"),
        (leave_open, r"bad: rows\.csv is still open for writing"),
        (write_into_input, r"the stage has changed its input 'more': .*extra\.txt; write only below `context\.output`"),
        (adopt_unknown, "context.adopt of shard 's-1': not a result of context.map_shards in this attempt"),
    ],
)
def test_a_slip_fails_the_stage_at_once_with_a_sentence(
    slip: Callable[[StageContext], object], message: str, site: Site
) -> None:
    TROUBLES["bad"] = lambda context: slip(context) and None
    with pytest.raises(StageFailedError, match=message) as failure:
        site.run(stage("good", 1), stage("bad", 2, "good"))
    while LEFT_OPEN:
        LEFT_OPEN.pop().close()
    assert "(user_code: trying again would not help" in str(failure.value)
    assert "stage_context.py" not in str(failure.value), "a sentence, not a traceback"
    assert site.ends() == [("good", "COMMITTED"), ("bad", "FAILED")]


def test_an_empty_slot_names_the_way_to_read_it(site: Site) -> None:
    TROUBLES["bad"] = lambda context: context.input("more") and None
    with pytest.raises(StageFailedError, match=r"holds 0 artifacts in this recipe.*context\.inputs\('more'\)"):
        site.run(stage("bad", 2))


def test_a_stage_that_returns_nothing_is_refused_with_its_kind(site: Site) -> None:
    nothing = replace(stage("bad", 1), kind=replace(NUMBER, run=return_nothing))
    with pytest.raises(StageFailedError, match="bad: returned by `run` of 'write_number': found NoneType"):
        site.run(nothing)


def return_nothing(_config: Any, _context: StageContext) -> Any:
    return None


def test_an_empty_artifact_is_noticed(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    empty = replace(stage("idle", 1), kind=replace(NUMBER, run=write_nothing))
    site.run(empty)
    assert "idle: wrote no file below `context.output`" in caplog.text


def write_nothing(_config: Any, _context: StageContext) -> dict[str, float]:
    return {}
