import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection

from orchestrator.artifact import ArtifactKey
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import DatabaseError, LeaseLostError
from orchestrator.history.attempts import AttemptIntent, StageRow
from orchestrator.history.database.database import Database
from orchestrator.history.events import AttemptState, Event, RunState
from orchestrator.history.leases import Lease, Leases
from orchestrator.history.projection import append_once
from orchestrator.history.run_status import run_status
from orchestrator.history.run_store import ATTEMPT_TRANSITIONS, RUN_TRANSITIONS, RunStore, StateConflictError

STAGES = (
    StageRow(stage_id="clean", stage_kind="curate", fingerprint="1" * 64, action="run", reasons=("never made",)),
    StageRow(stage_id="learn", stage_kind="train", fingerprint="2" * 64, action="run", upstream=("clean",)),
    StageRow(stage_id="old", stage_kind="ingest", fingerprint="3" * 64, action="reuse"),
)
INTENT = AttemptIntent(
    attempt=AttemptId(run_id="r1", stage_id="clean", epoch=1, name="a1"),
    key=ArtifactKey("curate", "1" * 64),
    stage_version=1,
    config={"side": 256},
)


def intended(epoch: int, **changes: str) -> AttemptIntent:
    return replace(INTENT, attempt=replace(INTENT.attempt, epoch=epoch, **changes))


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database)


def new_lease(database: Database, run_id: str = "r1") -> Lease:
    lease = Leases(database).acquire(f"run:{run_id}")
    assert lease is not None
    return lease


def started(store: RunStore, database: Database, run_id: str = "r1") -> int:
    store.create_run(run_id, recipe_name="tiny", plan_digest="d", stages=STAGES)
    return store.begin_epoch(run_id, new_lease(database, run_id))


def take_over(store: RunStore, database: Database) -> int:
    leases = Leases(database)
    old = leases.holder("run:r1")
    assert old is not None
    leases.release(old)
    return store.begin_epoch("r1", new_lease(database))


def recorded(store: RunStore, run_id: str = "r1") -> list[tuple[Any, ...]]:
    return [(event.kind, event.epoch, event.fields.get("to")) for event in store.events(run_id)]


def test_a_run_from_plan_to_success_is_recorded_without_gaps(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    attempt = store.start_attempt(intended(epoch))
    assert (attempt.number, attempt.state, attempt.id.epoch) == (1, AttemptState.INTENT, 1)
    store.transition_attempt("a1", AttemptState.INTENT, AttemptState.RUNNING, epoch=epoch)
    store.transition_attempt("a1", AttemptState.RUNNING, AttemptState.COMMITTED, epoch=epoch)
    store.transition_run("r1", RunState.RUNNING, RunState.SUCCEEDED, epoch=epoch)
    assert recorded(store) == [
        ("run_created", 0, None),
        ("run_state", 1, "RUNNING"),
        ("attempt_state", 1, "INTENT"),
        ("attempt_state", 1, "RUNNING"),
        ("attempt_state", 1, "COMMITTED"),
        ("run_state", 1, "SUCCEEDED"),
    ]
    assert [event.sequence for event in store.events("r1")] == [1, 2, 3, 4, 5, 6]
    assert [event.sequence for event in store.events("r1", after=2, limit=2)] == [3, 4]


def test_a_driver_that_was_replaced_can_change_nothing(store: RunStore, database: Database) -> None:
    old = started(store, database)
    store.start_attempt(intended(old))
    new = take_over(store, database)
    before = store.events("r1")
    changes: list[Callable[[], object]] = [
        lambda: store.transition_run("r1", RunState.RUNNING, RunState.FAILED, epoch=old),
        lambda: store.start_attempt(intended(old, name="a2")),
        lambda: store.transition_attempt("a1", AttemptState.INTENT, AttemptState.RUNNING, epoch=old),
        lambda: store.record("r1", "note", {}, epoch=old),
    ]
    for change in changes:
        with pytest.raises(LeaseLostError, match="this driver has epoch 1, but epoch 2 has taken over"):
            change()
    assert store.events("r1") == before
    store.transition_attempt("a1", AttemptState.INTENT, AttemptState.LOST, epoch=new)


def test_a_dead_drivers_run_is_interrupted_and_taken_over(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    store.start_attempt(intended(epoch))
    store.request_cancel("r1")
    assert store.cancel_requested("r1")
    assert take_over(store, database) == 2
    assert recorded(store)[-3:] == [
        ("cancel_requested", 1, None),
        ("run_state", 1, "INTERRUPTED"),
        ("run_state", 2, "RUNNING"),
    ]
    assert not store.cancel_requested("r1")  # the request was for the run that ended
    assert [attempt.id.name for attempt in store.open_attempts("r1")] == ["a1"]


def test_an_epoch_begins_under_a_live_lease_only(store: RunStore, database: Database) -> None:
    store.create_run("r1", recipe_name="tiny", plan_digest="d", stages=STAGES)
    lease = new_lease(database)
    Leases(database).release(lease)
    with pytest.raises(LeaseLostError, match="run:r1"):
        store.begin_epoch("r1", lease)
    assert recorded(store) == [("run_created", 0, None)]


def test_repeating_a_change_does_nothing(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    lease = Leases(database).holder("run:r1")
    assert lease is not None
    assert store.begin_epoch("r1", lease) == epoch
    store.create_run("r1", recipe_name="tiny", plan_digest="d", stages=STAGES)
    for _ in range(2):
        store.start_attempt(intended(epoch))
        store.request_cancel("r1")
    for _ in range(2):
        store.transition_attempt("a1", AttemptState.INTENT, AttemptState.RUNNING, epoch=epoch)
    for _ in range(2):
        store.transition_run("r1", RunState.RUNNING, RunState.STOPPING, epoch=epoch)
    assert len(store.events("r1")) == 6


def test_a_change_from_another_state_than_expected_is_refused(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    store.start_attempt(intended(epoch))
    store.transition_attempt("a1", AttemptState.INTENT, AttemptState.FAILED, epoch=epoch)
    with pytest.raises(StateConflictError, match="attempt a1: found state FAILED, expected RUNNING"):
        store.transition_attempt("a1", AttemptState.RUNNING, AttemptState.COMMITTED, epoch=epoch)
    with pytest.raises(StateConflictError, match="run r1: found state RUNNING, expected STOPPING"):
        store.transition_run("r1", RunState.STOPPING, RunState.FAILED, epoch=epoch)
    with pytest.raises(StateConflictError, match="run r1: exists with plan d, found plan e"):
        store.create_run("r1", recipe_name="tiny", plan_digest="e", stages=STAGES)


def test_a_lease_is_released_with_the_change_or_not_at_all(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    store.start_attempt(intended(epoch))
    leases = Leases(database)
    kept = leases.acquire("artifact:1")
    assert kept is not None
    with pytest.raises(LeaseLostError):
        store.transition_attempt("a1", AttemptState.INTENT, AttemptState.COMMITTED, epoch=epoch - 1, release=kept)
    assert leases.holder("artifact:1") is not None
    store.transition_attempt("a1", AttemptState.INTENT, AttemptState.COMMITTED, epoch=epoch, release=kept)
    assert leases.holder("artifact:1") is None
    taken = leases.acquire("artifact:1")
    store.transition_attempt("a1", AttemptState.INTENT, AttemptState.COMMITTED, epoch=epoch, release=kept)
    assert leases.holder("artifact:1") == taken, "a repeated try releases nobody else's"


def test_an_ended_attempt_or_run_cannot_change(store: RunStore, database: Database) -> None:
    ends = (AttemptState.COMMITTED, AttemptState.FAILED, AttemptState.LOST, AttemptState.CANCELLED)
    assert not any(end in ATTEMPT_TRANSITIONS for end in ends)
    assert not any(state in RUN_TRANSITIONS for state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED))
    epoch = started(store, database)
    with pytest.raises(StateConflictError, match="cannot change from SUCCEEDED to FAILED"):
        store.transition_run("r1", RunState.SUCCEEDED, RunState.FAILED, epoch=epoch)


def test_a_run_that_has_ended_cannot_be_cancelled(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    store.transition_run("r1", RunState.RUNNING, RunState.FAILED, epoch=epoch)
    with pytest.raises(StateConflictError, match="run r1: has ended as FAILED; there is nothing to cancel"):
        store.request_cancel("r1")


def test_a_run_cancelled_before_its_driver_starts_stays_cancelled(store: RunStore, database: Database) -> None:
    store.create_run("r1", recipe_name="tiny", plan_digest="d", stages=STAGES)
    store.request_cancel("r1")
    store.begin_epoch("r1", new_lease(database))
    assert store.cancel_requested("r1")


def test_unknown_runs_and_attempts_are_named(store: RunStore) -> None:
    with pytest.raises(DatabaseError, match=r"run nowhere: not in the database; `illume status`"):
        store.request_cancel("nowhere")
    with pytest.raises(DatabaseError, match="attempt nothing: not in the database"):
        store.transition_attempt("nothing", AttemptState.INTENT, AttemptState.RUNNING, epoch=1)
    assert not store.cancel_requested("nowhere")


def test_events_of_many_threads_are_numbered_in_the_order_they_become_visible(
    store: RunStore, database: Database
) -> None:
    epoch = started(store, database)
    seen: list[Event] = []
    done = threading.Event()

    def follow() -> None:
        while True:
            is_last = done.is_set()
            seen.extend(store.events("r1", after=seen[-1].sequence if seen else 0))
            if is_last:
                return

    reader = threading.Thread(target=follow)
    reader.start()
    writers = [
        threading.Thread(target=lambda: [store.record("r1", "note", {}, epoch=epoch) for _ in range(15)])
        for _ in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()
    assert [event.sequence for event in seen] == list(range(1, 63))


def test_secrets_do_not_reach_the_events(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    intent = replace(INTENT, config={"url": "s3://key:hunter2@bucket", "hf_token": "hunter2"})
    store.start_attempt(intent)
    message = "cannot reach postgresql://me:hunter2@db/x\x00"
    store.transition_attempt(
        "a1", AttemptState.INTENT, AttemptState.FAILED, epoch=epoch, fields={"message": message, "share": float("nan")}
    )
    assert "hunter2" not in str(store.events("r1"))
    assert (
        run_status(database, "r1").stages[0].message == "cannot reach postgresql://me:***@db/x\N{REPLACEMENT CHARACTER}"
    )


def test_an_event_whose_commit_lost_its_reply_is_not_appended_twice(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    tried: list[Event] = []

    def note(connection: Connection) -> None:
        append_once(connection, tried, "r1", "note", {"number": 1}, epoch=epoch, stage_id="clean")

    database.write(note)
    database.write(note)
    assert [event.kind for event in store.events("r1")].count("note") == 1


@pytest.mark.parametrize("is_taken", [True, False])
def test_an_event_that_was_rolled_back_is_appended_again_whether_or_not_its_number_is_taken(
    store: RunStore, database: Database, is_taken: bool
) -> None:
    epoch = started(store, database)
    tried: list[Event] = []

    def note(connection: Connection) -> None:
        append_once(connection, tried, "r1", "note", {"number": 1}, epoch=epoch)

    def roll_back(connection: Connection) -> None:
        note(connection)
        raise LookupError

    with pytest.raises(LookupError):
        database.write(roll_back)
    if is_taken:
        store.record("r1", "other", {}, epoch=epoch)
        assert store.events("r1")[-1].sequence == tried[0].sequence
    database.write(note)
    assert [event.kind for event in store.events("r1")][-2:] == ["other" if is_taken else "run_state", "note"]
