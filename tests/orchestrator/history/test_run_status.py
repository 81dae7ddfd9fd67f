from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.artifact import ArtifactKey
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import DatabaseError
from orchestrator.history.attempts import AttemptIntent, InputSummary, StageRow
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts
from orchestrator.history.events import AttemptState, EventKind, RunState
from orchestrator.history.leases import Leases
from orchestrator.history.run_status import (
    WorkSize,
    last_fingerprint,
    list_runs,
    newest_run,
    run_status,
    typical_duration_s,
)
from orchestrator.history.run_store import RunStore
from tests.orchestrator.history.test_run_store import INTENT, intended, started


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database)


def test_the_status_shows_every_stage(store: RunStore, database: Database) -> None:
    epoch = started(store, database)
    waiting = run_status(database, "r1")
    assert [stage.state for stage in waiting.stages] == ["WAITING", "WAITING", "REUSED"]
    assert waiting.stages[0].reasons == ("never made",)
    assert waiting.stages[1].upstream == ("clean",)
    store.start_attempt(intended(epoch))
    store.transition_attempt(
        "a1",
        AttemptState.INTENT,
        AttemptState.FAILED,
        epoch=epoch,
        fields={"failure_class": "node_lost", "message": "worker 3 died"},
    )
    store.start_attempt(intended(epoch, name="a2"))
    store.record("r1", EventKind.STAGE_REUSED, {"fingerprint": "2" * 64}, epoch=epoch, stage_id="learn")
    first, second, _third = run_status(database, "r1").stages
    assert (first.state, first.attempt, first.failure_class, first.message) == ("INTENT", 2, "", "")
    assert second.state == "REUSED"
    store.transition_attempt("a2", AttemptState.INTENT, AttemptState.CANCELLED, epoch=epoch)
    store.transition_run("r1", RunState.RUNNING, RunState.CANCELLED, epoch=epoch, fields={"message": "stopped by hand"})
    status = run_status(database, "r1")
    assert (status.run.state, status.run.message) == (RunState.CANCELLED, "stopped by hand")
    assert status.stages[0].state == "CANCELLED"


def test_the_status_of_an_unknown_run_names_those_that_exist(store: RunStore, database: Database) -> None:
    with pytest.raises(DatabaseError, match="run 'r9': not found; the newest runs are: none"):
        run_status(database, "r9")
    started(store, database)
    with pytest.raises(DatabaseError, match="the newest runs are: r1"):
        run_status(database, "r9")


def test_earlier_runs_give_the_last_fingerprint_and_the_duration(store: RunStore, database: Database) -> None:
    assert newest_run(database) is None
    assert typical_duration_s(database, recipe="tiny", stage_id="clean", fingerprint="0" * 64) is None
    for run_id in ("r1", "r2"):
        epoch = started(store, database, run_id)
        attempt = AttemptId(run_id=run_id, stage_id="clean", epoch=epoch, name=f"{run_id}-a")
        intent = replace(INTENT, attempt=attempt, key=ArtifactKey("curate", run_id[-1] * 64))
        store.start_attempt(intent)
        store.transition_attempt(attempt.name, AttemptState.INTENT, AttemptState.RUNNING, epoch=epoch)
        store.transition_attempt(attempt.name, AttemptState.RUNNING, AttemptState.COMMITTED, epoch=epoch)
    assert [run.run_id for run in list_runs(database)] == ["r2", "r1"]
    assert newest_run(database, recipe="other") is None
    newest = newest_run(database, recipe="tiny")
    assert newest is not None
    assert newest.run_id == "r2"
    assert last_fingerprint(database, recipe="tiny", stage_id="clean", stage_kind="curate") == "2" * 64
    assert last_fingerprint(database, recipe="tiny", stage_id="old", stage_kind="ingest") == "3" * 64
    assert last_fingerprint(database, recipe="other", stage_id="clean", stage_kind="curate") is None
    for fingerprint in ("1" * 64, "0" * 64):
        took_s = typical_duration_s(database, recipe="tiny", stage_id="clean", fingerprint=fingerprint)
        assert took_s is not None
        assert 0 <= took_s < 60
    assert typical_duration_s(database, recipe="other", stage_id="clean", fingerprint="0" * 64) is None


def test_a_duration_is_scaled_to_the_steps_and_rows_that_are_to_be_done(database: Database) -> None:
    store = RunStore(database)
    rows = [StageRow(stage_id="train", stage_kind="train", fingerprint="a" * 64, action="run")]
    store.create_run("r1", recipe_name="small", plan_digest="d" * 64, stages=rows)
    lease = Leases(database).acquire("run:r1")
    assert lease is not None
    epoch = store.begin_epoch("r1", lease)
    attempt = AttemptId.of("r1", "train", epoch=epoch, number=1)
    inputs = (InputSummary(slot="data", kind="d", digest="e", name="n", bytes=1, rows=200, files=1),)
    key = ArtifactKey("train", "a" * 64)
    store.start_attempt(AttemptIntent(attempt=attempt, key=key, stage_version=1, config={}, inputs=inputs))
    change = update(attempts).values(state="COMMITTED", started_at=100.0, ended_at=180.0, done=40, total=40)
    database.write(lambda connection: connection.execute(change))

    def seconds(fingerprint: str, **size: Any) -> float | None:
        found = WorkSize(**size)
        return typical_duration_s(database, recipe="small", stage_id="train", fingerprint=fingerprint, size=found)

    assert seconds("a" * 64, units=300.0) == 80.0, "the same identity is the same work"
    assert seconds("b" * 64, units=300.0) == pytest.approx(600.0)
    assert seconds("b" * 64, rows=1000) == pytest.approx(400.0)
    assert seconds("b" * 64) == 80.0
    store.close()
