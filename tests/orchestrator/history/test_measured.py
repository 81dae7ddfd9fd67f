import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.history.attempts import AttemptIntent
from orchestrator.history.database.database import Database
from orchestrator.history.events import AttemptState
from orchestrator.history.measured import NUM_ATTEMPTS, MeasuredAttempt, measured_attempts
from orchestrator.history.run_store import RunStore
from tests.orchestrator.history.test_run_store import INTENT, started


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database)


def attempt(
    store: RunStore, epoch: int, name: str, *, speeds: list[float], device: str = "", run_id: str = "r1"
) -> None:
    """An attempt that measures its speed once for each step, and fails."""
    intent = AttemptIntent(
        attempt=AttemptId(run_id="r1", stage_id="clean", epoch=epoch, name=name),
        key=INTENT.key,
        stage_version=1,
        config={},
    )
    store.start_attempt(intent)
    tracker = store.telemetry.tracker(intent.attempt)
    if device:
        tracker.log_event("layout", {"device": device})
    for step, speed in enumerate(speeds):
        tracker.log_metrics({"speed": speed, "loss": 9.0}, step=step)
    store.transition_attempt(name, AttemptState.INTENT, AttemptState.FAILED, epoch=epoch)


def measured(database: Database, **changes: str) -> list[MeasuredAttempt]:
    where = {"recipe": "tiny", "stage_id": "clean", "stage_kind": "curate", **changes}
    return list(measured_attempts(database, **where, names=("speed",), event="layout"))


def test_the_newest_attempts_come_first_with_their_medians(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    attempt(store, epoch, "a1", device="x", speeds=[1.0, 5.0, float("nan"), 3.0])
    attempt(store, epoch, "a2", device="y", speeds=[8.0])
    attempt(store, epoch, "a3", device="y", speeds=[])  # lost before its first step
    attempt(store, epoch, "a4", speeds=[7.0])  # nobody knows on what
    first, second = measured(database)
    assert (first.run_id, first.metrics, first.fields["device"]) == ("r1", {"speed": 8.0}, "y")
    assert (second.metrics, second.fields["device"]) == ({"speed": 3.0}, "x")
    assert measured(database, recipe="other") == []
    assert measured(database, stage_id="learn") == []
    assert measured(database, stage_kind="train") == []


def test_only_the_newest_attempts_count(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    for number in range(NUM_ATTEMPTS + 3):
        attempt(store, epoch, f"a{number}", device="x", speeds=[float(number)])
    assert [found.metrics["speed"] for found in measured(database)] == [7.0, 6.0, 5.0, 4.0, 3.0]
