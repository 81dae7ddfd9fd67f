import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.artifact import ArtifactKey
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import DatabaseError
from orchestrator.history import telemetry as telemetry_module
from orchestrator.history.attempts import AttemptIntent, StageRow
from orchestrator.history.database.database import Database
from orchestrator.history.events import AttemptState, Event
from orchestrator.history.leases import Leases
from orchestrator.history.run_status import StageStatus, run_status
from orchestrator.history.run_store import RunStore
from orchestrator.history.telemetry import Telemetry
from orchestrator.stage import Tracker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(database: Database) -> Iterator[RunStore]:
    store = RunStore(database)
    yield store
    store.telemetry.forget("a1")
    store.close()


def attempt(store: RunStore, database: Database) -> int:
    row = StageRow(stage_id="learn", stage_kind="train", fingerprint="1" * 64, action="run")
    store.create_run("r1", recipe_name="tiny", plan_digest="d", stages=[row])
    lease = Leases(database).acquire("run:r1")
    assert lease is not None
    epoch = store.begin_epoch("r1", lease)
    intent = AttemptIntent(
        attempt=AttemptId(run_id="r1", stage_id="learn", epoch=epoch, name="a1"),
        key=ArtifactKey("train", "1" * 64),
        stage_version=1,
        config={},
    )
    store.start_attempt(intent)
    store.transition_attempt("a1", AttemptState.INTENT, AttemptState.RUNNING, epoch=epoch)
    return epoch


def tracked(telemetry: Telemetry, epoch: int) -> Tracker:
    return telemetry.tracker(AttemptId(run_id="r1", stage_id="learn", epoch=epoch, name="a1"))


def of_kind(store: RunStore, kind: str) -> list[Event]:
    return [event for event in store.events("r1", limit=10_000) if event.kind == kind]


def stage(database: Database) -> StageStatus:
    return run_status(database, "r1").stages[0]


def test_metrics_arrive_in_order_within_seconds_without_a_flush(store: RunStore, database: Database) -> None:
    tracker = tracked(store.telemetry, attempt(store, database))
    for step in range(2500):
        tracker.log_metrics({"loss": 1 / (step + 1), "rate": 0.5}, step=step)
    deadline_s = time.monotonic() + 10
    while sum(len(event.fields["points"]) for event in of_kind(store, "metrics")) < 5000:
        assert time.monotonic() < deadline_s, "metrics did not arrive"
        time.sleep(0.05)
    events = of_kind(store, "metrics")
    points = [point for event in events for point in event.fields["points"]]
    assert [point[2] for point in points if point[0] == "loss"] == list(range(2500))
    assert {event.attempt_id for event in events} == {"a1"}
    assert len(events) < 20  # many points in each event


def test_logging_never_accesses_the_database(
    store: RunStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is held by a long transaction of this thread; a query from it would deadlock."""
    tracker = tracked(store.telemetry, attempt(store, database))
    asking: list[int] = []
    transact = Database._transact

    def noted(self: Database, *arguments: Any, **options: Any) -> Any:
        asking.append(threading.get_ident())
        return transact(self, *arguments, **options)

    def hold(_connection: object) -> None:
        asking.clear()
        for step in range(1000):
            tracker.log_metrics({"loss": 1.0}, step=step)
            tracker.progress(step, 1000, "steps")
        assert threading.get_ident() not in asking

    monkeypatch.setattr(Database, "_transact", noted)
    database.write(hold)
    store.telemetry.flush()
    assert sum(len(event.fields["points"]) for event in of_kind(store, "metrics")) == 1000


def test_non_finite_metrics_survive(store: RunStore, database: Database) -> None:
    tracker = tracked(store.telemetry, attempt(store, database))
    tracker.log_metrics({"loss": math.nan, "scale": math.inf}, step=3)
    store.telemetry.flush()
    (event,) = of_kind(store, "metrics")
    values = {point[0]: float(point[1]) for point in event.fields["points"]}
    assert math.isnan(values["loss"])
    assert values["scale"] == math.inf


def test_progress_gives_rate_and_time_left(store: RunStore, database: Database) -> None:
    clock = Clock()
    telemetry = Telemetry(database, clock=clock)
    tracker = tracked(telemetry, attempt(store, database))
    for done in range(0, 101, 10):
        tracker.progress(done, 400, "images")
        clock.now += 2.0
    telemetry.flush()
    shown = stage(database)
    assert (shown.done, shown.total, shown.unit) == (100, 400, "images")
    assert shown.rate_per_s == pytest.approx(5.0)
    assert shown.eta_s == pytest.approx(60.0)
    telemetry.close()


def test_the_rate_follows_the_newest_part_of_the_work(store: RunStore, database: Database) -> None:
    clock = Clock()
    telemetry = Telemetry(database, clock=clock)
    tracker = tracked(telemetry, attempt(store, database))
    tracker.progress(0, 10_000, "shards")
    tracker.progress(5000, 10_000, "shards")  # found made already
    for done in range(5000, 5201):
        clock.now += 1.0
        tracker.progress(done, 10_000, "shards")
    telemetry.flush()
    assert stage(database).rate_per_s == pytest.approx(1.0, rel=0.05)  # one sample of 60 in the window
    telemetry.close()


def test_progress_is_seldom_an_event_but_the_last_one_always_is(store: RunStore, database: Database) -> None:
    clock = Clock()
    telemetry = Telemetry(database, clock=clock)
    tracker = tracked(telemetry, attempt(store, database))
    for done in range(1, 101):
        tracker.progress(done, 100, "images")
        telemetry.flush()
        clock.now += 1.0
    assert [event.fields["done"] for event in of_kind(store, "progress")] == [1, 31, 61, 91, 100]
    telemetry.close()


def test_the_end_of_an_attempt_keeps_its_progress_and_comes_after_its_metrics(
    store: RunStore, database: Database
) -> None:
    epoch = attempt(store, database)
    tracker = tracked(store.telemetry, epoch)
    tracker.progress(1, 100, "images")
    store.telemetry.flush()
    tracker.progress(77, 100, "images")
    tracker.log_metrics({"loss": 1.0}, step=77)
    tracker.log_event("note", {"text": "nearly there"})
    store.transition_attempt("a1", AttemptState.RUNNING, AttemptState.FAILED, epoch=epoch)
    tracker.log_metrics({"loss": 2.0}, step=78)  # a thread that has not noticed the end
    store.telemetry.flush()
    events = store.events("r1")
    assert [event.kind for event in events[-3:]] == ["note", "metrics", "attempt_state"]
    assert events[-1].fields["progress"]["done"] == 77
    assert stage(database).done == 77


def test_an_unreachable_database_loses_no_telemetry(database: Database, store: RunStore) -> None:
    tracker = tracked(store.telemetry, attempt(store, database))
    tracker.log_metrics({"loss": 1.0}, step=1)
    rename: Callable[[str, str], None] = lambda old, new: database.write(  # noqa: E731 - two short calls
        lambda connection: connection.execute(text(f"alter table {old} rename to {new}"))
    )
    rename("events", "gone")
    with pytest.raises(DatabaseError):
        store.telemetry.flush()
    tracker.log_metrics({"loss": 2.0}, step=2)
    rename("gone", "events")
    store.telemetry.flush()
    points = [point for event in of_kind(store, "metrics") for point in event.fields["points"]]
    assert [point[:3] for point in points] == [["loss", 1.0, 1], ["loss", 2.0, 2]]


def test_too_many_metrics_are_dropped_and_counted(
    database: Database, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry_module, "MAX_POINTS", 10)
    telemetry = Telemetry(database)
    epoch = attempt(store, database)

    def hold(_connection: object) -> None:
        tracker = tracked(telemetry, epoch)
        for step in range(25):
            tracker.log_metrics({"loss": 1.0}, step=step)

    database.write(hold)
    telemetry.close()
    (event,) = of_kind(store, "metrics")
    assert [point[2] for point in event.fields["points"]] == list(range(15, 25))
    assert of_kind(store, "metrics_dropped")[0].fields["points"] == 15


def test_a_stage_cannot_log_reserved_event_kinds(store: RunStore, database: Database) -> None:
    tracker = tracked(store.telemetry, attempt(store, database))
    with pytest.raises(ValueError, match="event kind 'run_state' is reserved for the kernel"):
        tracker.log_event("run_state", {"to": "SUCCEEDED"})


def test_metrics_of_a_replaced_driver_are_dropped(store: RunStore, database: Database) -> None:
    tracker = tracked(store.telemetry, attempt(store, database))
    leases = Leases(database)
    lease = leases.holder("run:r1")
    assert lease is not None
    leases.release(lease)
    lease = leases.acquire("run:r1")
    assert lease is not None
    RunStore(database).begin_epoch("r1", lease)
    tracker.log_metrics({"loss": 1.0}, step=1)
    store.telemetry.flush()
    assert of_kind(store, "metrics") == []


def test_a_bug_in_one_flush_does_not_end_the_thread(
    store: RunStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry_module, "FLUSH_S", 0.01)
    telemetry = Telemetry(database)
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise AttributeError("partially initialized module")

    monkeypatch.setattr(telemetry, "flush", fail)
    tracker = tracked(telemetry, attempt(store, database))
    assert failed.wait(30)
    monkeypatch.undo()
    tracker.progress(3, 9, "steps")
    deadline = time.monotonic() + 30
    while stage(database).done != 3:
        assert time.monotonic() < deadline, "its progress was never written"
        time.sleep(0.01)
    telemetry.close()
