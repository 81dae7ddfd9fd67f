import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select, update

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.attempt_id import AttemptId
from orchestrator.history import lease_owners as owners
from orchestrator.history.attempts import AttemptIntent, StageRow
from orchestrator.history.database import schema
from orchestrator.history.database.database import Database
from orchestrator.history.events import AttemptState, RunState, event_to_json
from orchestrator.history.leases import Leases
from orchestrator.history.rebuild import _replace_run, rebuild_index
from orchestrator.history.run_store import RunStore, StateConflictError
from orchestrator.identity import fingerprint_of
from orchestrator.sinks.file_sinks import StoreSink
from orchestrator.sinks.outbox import Outbox
from orchestrator.store.store import open_store

TABLES = (schema.runs, schema.stages, schema.attempts, schema.events)


def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    def work(connection: Any) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in TABLES
        }

    return database.read(work)


@dataclass(frozen=True)
class Place:
    database: Database
    artifacts: ArtifactStore
    records: RunRecords


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    store = open_store(tmp_path / "store")
    return Place(database, ArtifactStore(store, tmp_path / "cache"), RunRecords(store))


def export(place: Place, *run_ids: str) -> None:
    with Outbox(place.database, [StoreSink(place.records)]) as outbox:
        for run_id in run_ids:
            outbox.follow(run_id)
        assert outbox.drain(20.0) == {}


def make_real_artifact(place: Place) -> None:
    """One run whose attempt commits to the store and then to the database."""
    payload: dict[str, Any] = {"kind": "draw", "version": 1}
    fingerprint = fingerprint_of(payload)
    store = RunStore(place.database)
    row = StageRow(stage_id="draw", stage_kind="draw", fingerprint=fingerprint, action="run", upstream=())
    store.create_run("real", recipe_name="shapes", plan_digest="p", stages=[row])
    lease = Leases(place.database).acquire("run:real")
    assert lease is not None
    epoch = store.begin_epoch("real", lease)
    intent = AttemptIntent(
        attempt=AttemptId(run_id="real", stage_id="draw", epoch=epoch, name="real-1"),
        key=ArtifactKey("draw", fingerprint),
        stage_version=1,
        config={},
    )
    store.start_attempt(intent)
    store.transition_attempt("real-1", AttemptState.INTENT, AttemptState.RUNNING, epoch=epoch)
    folder = place.artifacts.new_attempt(ArtifactKey("draw", fingerprint), "real-1")
    (folder.data / "shapes.txt").write_text("a red square")
    draft = ManifestDraft(kind="raw@1", payload=payload, metrics={"scenes": 1.0})
    artifact = place.artifacts.commit(folder, draft, epoch=epoch)
    store.transition_attempt("real-1", AttemptState.RUNNING, AttemptState.COMMITTED, epoch=epoch, artifact=artifact)
    store.request_cancel("real")
    store.transition_run("real", RunState.RUNNING, RunState.STOPPING, epoch=epoch)
    store.close()
    Leases(place.database).release(lease)


def test_the_store_alone_restores_every_row(
    place: Place, tell_story: Callable[[Database, str], Any], tmp_path: Path
) -> None:
    tell_story(place.database, "told")
    make_real_artifact(place)
    export(place, "told", "real")
    before = rows(place.database)
    assert [len(before[table.name]) for table in TABLES] == [2, 2, 3, 21]
    fresh = Database(str(tmp_path / "fresh.db"))
    report = rebuild_index(fresh, place.artifacts)
    assert rows(fresh) == before
    assert (report.runs, report.events, report.artifacts, report.problems) == (2, 21, 1, ())
    rebuild_index(fresh, place.artifacts)
    assert rows(fresh) == before


def test_the_next_driver_after_a_rebuild_has_a_higher_epoch(
    place: Place, tell_story: Callable[[Database, str], Any], tmp_path: Path
) -> None:
    story = tell_story(place.database, "r1")
    export(place, "r1")
    fresh = Database(str(tmp_path / "fresh.db"))
    rebuild_index(fresh, place.artifacts)
    lease = Leases(fresh).acquire("run:r1")
    assert lease is not None
    assert RunStore(fresh).begin_epoch("r1", lease) == story.epoch + 1


def test_events_that_were_not_exported_are_kept(place: Place, tell_story: Callable[[Database, str], Any]) -> None:
    story = tell_story(place.database, "r1")
    Leases(place.database).release(held(place.database, "run:r1"))
    export(place, "r1")
    story.run_store.record("r1", "note", {"text": "only here"}, epoch=story.epoch)
    before = rows(place.database)
    rebuild_index(place.database, place.artifacts)
    assert rows(place.database) == before


def test_a_run_at_work_is_left_as_it_is_and_the_others_are_rebuilt(
    place: Place, tell_story: Callable[[Database, str], Any]
) -> None:
    tell_story(place.database, "r1")  # leaves its lease held
    tell_story(place.database, "r2")
    Leases(place.database).release(held(place.database, "run:r2"))
    export(place, "r1", "r2")
    before = rows(place.database)
    lost = [delete(table).where(table.c.run_id == "r2") for table in TABLES]
    lost.append(update(schema.attempts).values(done=39))  # progress that no event has
    place.database.write(lambda connection: [connection.execute(statement) for statement in lost])
    live = {name: [row for row in found if "r1" in row] for name, found in rows(place.database).items()}
    report = rebuild_index(place.database, place.artifacts)
    assert (report.runs, report.at_work) == (1, ("r1",))
    after = rows(place.database)
    assert {name: [row for row in found if "r1" in row] for name, found in after.items()} == live
    assert [row for row in after["events"] if "r2" in row] == [row for row in before["events"] if "r2" in row]


def test_a_driver_that_starts_in_the_middle_of_a_rebuild_waits_for_it(
    place: Place, tell_story: Callable[[Database, str], Any]
) -> None:
    tell_story(place.database, "r1")
    Leases(place.database).release(held(place.database, "run:r1"))
    export(place, "r1")
    replayed, has_waited = threading.Event(), threading.Event()
    problems: list[Exception] = []

    def rebuild(connection: Connection) -> None:
        assert _replace_run(connection, run_id="r1", start={"recipe": "tiny"}, stored={}) is not None
        replayed.set()
        has_waited.wait(1.0)  # the other transaction waits for this one

    def drive() -> None:
        try:
            RunStore(place.database).request_cancel("r1")
        except StateConflictError as error:  # it has ended: the row was found
            problems.append(error)
        has_waited.set()

    replay = threading.Thread(target=place.database.write, args=(rebuild,))
    replay.start()
    assert replayed.wait(20)
    drive()
    replay.join()
    assert [type(problem) for problem in problems] == [StateConflictError]


def test_the_lease_of_a_killed_driver_does_not_block_a_rebuild(
    place: Place, tell_story: Callable[[Database, str], Any]
) -> None:
    tell_story(place.database, "r1")
    export(place, "r1")
    dead = replace(owners.this_process(), pid=2**22 + 1)  # above the largest process id of Linux
    change = update(schema.leases).where(schema.leases.c.resource == "run:r1").values(owner=dead.text())
    place.database.write(lambda connection: connection.execute(change))
    report = rebuild_index(place.database, place.artifacts)
    assert (report.runs, report.at_work) == (1, ())


def test_a_run_that_the_database_lost_is_restored_although_its_lease_is_held(
    place: Place, tell_story: Callable[[Database, str], Any]
) -> None:
    """The lease is that of another database's driver, or of one that will find its row again."""
    tell_story(place.database, "r1")
    export(place, "r1")
    before = rows(place.database)
    for table in TABLES:
        place.database.write(lambda connection, table=table: connection.execute(delete(table)))
    assert held(place.database, "run:r1")
    assert rebuild_index(place.database, place.artifacts).runs == 1
    assert rows(place.database)["events"] == before["events"]


def held(database: Database, resource: str) -> Any:
    lease = Leases(database).holder(resource)
    assert lease is not None
    return lease


def test_numbers_and_epochs_that_the_database_has_given_away_are_not_given_again(
    place: Place, tell_story: Callable[[Database, str], Any]
) -> None:
    """Whoever has them wrote events that are lost, or is about to write some."""
    story = tell_story(place.database, "r1")
    Leases(place.database).release(held(place.database, "run:r1"))
    export(place, "r1")
    (before,) = rows(place.database)["runs"]
    given = update(schema.runs).values(last_event=schema.runs.c.last_event + 5, epoch=story.epoch + 3)
    place.database.write(lambda connection: connection.execute(given))
    (raised,) = rows(place.database)["runs"]
    place.database.write(lambda connection: connection.execute(delete(schema.events)))
    rebuild_index(place.database, place.artifacts)
    assert rows(place.database)["runs"] == [raised] != [before]
    lease = Leases(place.database).acquire("run:r1")
    assert lease is not None
    assert RunStore(place.database).begin_epoch("r1", lease) == story.epoch + 4
    assert [event.sequence for event in story.run_store.events("r1")][-1] == before[6] + 6


def test_of_a_run_without_events_the_start_is_known(place: Place, tmp_path: Path) -> None:
    place.records.put_run("r1", {"recipe": "tiny", "plan_digest": "d", "time": 7.0})
    fresh = Database(str(tmp_path / "fresh.db"))
    report = rebuild_index(fresh, place.artifacts)
    assert (report.runs, report.events, report.problems) == (1, 0, ())
    assert str(report) == "1 runs with 0 events, 0 artifacts"
    (row,) = rows(fresh)["runs"]
    assert row == ("r1", "tiny", "d", RunState.PLANNED, 0, "", 0, False, "", 7.0, 7.0)
    place.records.put_run("r2", {})
    assert rebuild_index(fresh, place.artifacts).runs == 2
    assert rows(fresh)["runs"][1][-2:] == (0.0, 0.0)


def test_missing_and_contradicting_events_are_reported(
    place: Place, tell_story: Callable[[Database, str], Any], tmp_path: Path
) -> None:
    story = tell_story(place.database, "r1")
    events = [event_to_json(event) for event in story.run_store.events("r1")]
    place.records.put_run("r1", {"recipe": "tiny", "plan_digest": "d" * 64})
    broken = {"format": 1, "id": "r1/broken"}  # what follows it counts
    place.records.append_events("r1", 1, 1, [*events[:2], broken, *events[2:6], *events[8:-1]])
    place.records.append_events("r1", 1, 2, events[3:6])  # written twice, as a reply was lost
    other = {**events[11], "epoch": 1, "fields": {"text": "a driver that was cut off"}, "kind": "note"}
    place.records.append_events("r1", 2, 2, [other, {"format": 77, "id": "r1/x"}])
    fresh = Database(str(tmp_path / "fresh.db"))
    report = rebuild_index(fresh, place.artifacts)
    assert "r1/broken" in report.problems[0]
    assert report.problems[1:] == (
        "event r1/00000012: two drivers wrote it (epochs 2 and 1)",
        "event r1/x: found format 77, expected 1; read it with the version of illume that wrote it",
        "run r1: 2 of its 13 events are not in the store",
    )
    kinds = [event.kind for event in RunStore(fresh).events("r1")]
    assert kinds == [event["kind"] for event in [*events[:6], *events[8:-1]]]
