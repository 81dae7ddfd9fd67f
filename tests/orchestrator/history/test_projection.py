"""What each event changes in the rows, and that it changes nothing else."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from orchestrator.artifact import JSON
from orchestrator.errors import DatabaseError, LeaseLostError
from orchestrator.history.actors import ACTOR_FIELD
from orchestrator.history.database import schema
from orchestrator.history.database.database import Database
from orchestrator.history.events import Event
from orchestrator.history.projection import append_event, lock_run, project

Rows = dict[tuple[str, ...], dict[str, Any]]  # by table and primary key
NO_WAIT = {"waiting_for": "", "waiting_since": None}


def stage(stage_id: str, *upstream: str) -> dict[str, JSON]:
    reasons: list[JSON] = ["never made"]
    fields: dict[str, JSON] = {"stage_id": stage_id, "stage_kind": f"{stage_id}_kind", "fingerprint": f"{stage_id}_0"}
    return {**fields, "action": "run", "reasons": reasons, "upstream": [*upstream]}


class Story:
    """The rows of two runs with the same stages; the events are of the first one."""

    def __init__(self, database: Database) -> None:
        self.database, self.sequence, self.before = database, 0, Rows()
        fields: dict[str, JSON] = {"recipe": "tiny", "plan_digest": "d", "stages": [stage("a"), stage("b", "a")]}
        created = Event(run_id="r2", sequence=1, time=1.0, epoch=0, kind="run_created", fields=fields)
        database.write(lambda connection: project(connection, created))
        self.tell("run_created", **fields)
        for run_id in ("r2", "r1"):
            self.tell("attempt_state", "a", f"{run_id}-a", run_id=run_id, to="INTENT", **INTENT)

    def tell(self, kind: str, *of: str, run_id: str = "r1", epoch: int = 0, **fields: JSON) -> Rows:
        """Project an event; returns what it has changed in the rows: new rows, and new values in others."""
        self.sequence += 1
        stage_id, attempt_id = [*of, None, None][:2]
        event = Event(
            run_id=run_id,
            sequence=self.sequence,
            time=100.0 + self.sequence,
            epoch=epoch,
            kind=kind,
            fields=fields,
            stage_id=stage_id,
            attempt_id=attempt_id,
        )
        self.database.write(lambda connection: project(connection, event))
        before, self.before = self.before, self.database.read(rows)
        assert before.keys() <= self.before.keys()
        touched = self.before["runs", run_id]
        assert (touched["last_event"], touched["updated_at"]) == (self.sequence, event.time)
        changed = {
            key: {name: value for name, value in row.items() if key not in before or before[key][name] != value}
            for key, row in self.before.items()
        }
        for name in ("last_event", "updated_at"):
            changed["runs", run_id].pop(name, None)
        return {key: values for key, values in changed.items() if values}


INTENT: dict[str, JSON] = {"number": 7, "stage_kind": "a_kind", "fingerprint": "a_0"}
PROGRESS: dict[str, JSON] = {"done": 4, "total": 9, "unit": "steps", "rate_per_s": 0.5}


def rows(connection: Connection) -> Rows:
    return {
        (table.name, *(str(row[column.name]) for column in table.primary_key)): dict(row)
        for table in (schema.runs, schema.stages, schema.attempts)
        for row in connection.execute(select(table)).mappings()
    }


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    with closing(Database(str(tmp_path / "index.db"))) as database:
        yield Story(database)


def test_a_run_begins_with_its_stages_and_without_attempts(story: Story) -> None:
    assert story.before["runs", "r1"] == {
        "run_id": "r1",
        "recipe": "tiny",
        "plan_digest": "d",
        "state": "PLANNED",
        "epoch": 0,
        "owner": "",
        "last_event": 3,
        "cancel_requested": False,
        "message": "",
        "created_at": 101.0,
        "updated_at": 103.0,
    }
    stages = [story.before["stages", "r1", stage_id] for stage_id in "ab"]
    assert [row["position"] for row in stages] == [0, 1]
    assert stages[1] == {
        "run_id": "r1",
        "stage_id": "b",
        "position": 1,
        "stage_kind": "b_kind",
        "fingerprint": "b_0",
        "action": "run",
        "reasons": '["never made"]',
        "upstream": '["a"]',
        **NO_WAIT,
    }
    assert story.before["attempts", "r1-a"] == {
        "attempt_id": "r1-a",
        "run_id": "r1",
        "stage_id": "a",
        **INTENT,
        "epoch": 0,
        "state": "INTENT",
        "failure_class": "",
        "message": "",
        "created_at": 103.0,
        "started_at": None,
        "ended_at": None,
        "done": 0,
        "total": 0,
        "unit": "",
        "rate_per_s": 0.0,
    }


def test_states_of_a_run(story: Story) -> None:
    of = ("runs", "r1")
    assert story.tell("cancel_requested") == {of: {"cancel_requested": True}}
    # Cancelled before its driver starts, it stays cancelled.
    begun = story.tell("run_state", epoch=3, **{"from": "PLANNED", "to": "RUNNING", "owner": "me"})
    assert begun == {of: {"state": "RUNNING", "epoch": 3, "owner": "me"}}
    assert story.tell("waiting", "b", **{"for": "nodes"}, epoch=2) == {
        ("stages", "r1", "b"): {"waiting_for": "nodes", "waiting_since": 105.0 + 1}
    }
    ended = story.tell("run_state", **{"from": "RUNNING", "to": "FAILED", "message": "why"})
    assert ended == {of: {"state": "FAILED", "message": "why"}, ("stages", "r1", "b"): NO_WAIT}
    again = story.tell("run_state", **{"from": "FAILED", "to": "RUNNING", "owner": "you"})
    assert again == {of: {"state": "RUNNING", "message": "", "owner": "you", "cancel_requested": False}}
    story.tell("cancel_requested")
    assert story.tell("run_state", **{"from": "RUNNING", "to": "STOPPING"}) == {of: {"state": "STOPPING"}}
    queued = story.tell("run_state", **{"from": "STOPPING", "to": "PLANNED"})
    assert queued == {of: {"state": "PLANNED", "cancel_requested": False}}


def test_states_of_an_attempt(story: Story) -> None:
    of, waiting = ("attempts", "r1-a"), ("stages", "r1", "a")
    story.tell("waiting", "a", **{"for": "nodes"})
    assert story.tell("attempt_state", "a", "r1-a", to="RUNNING") == {
        of: {"state": "RUNNING", "started_at": 105.0},
        waiting: NO_WAIT,
    }
    assert story.tell("progress", "a", "r1-a", **PROGRESS) == {of: PROGRESS}
    last: JSON = {**PROGRESS, "done": 6}
    failed = story.tell(
        "attempt_state", "a", "r1-a", to="FAILED", failure_class="host_oom", message="killed", progress=last
    )
    assert failed == {
        of: {"state": "FAILED", "failure_class": "host_oom", "message": "killed", "ended_at": 107.0, "done": 6}
    }
    assert story.tell("attempt_state", "a", "r2-a", run_id="r2", to="LOST") == {
        ("attempts", "r2-a"): {"state": "LOST", "ended_at": 108.0}
    }


def test_events_of_stages(story: Story) -> None:
    of = ("stages", "r1", "b")
    waits = story.tell("waiting", "b", **{"for": "run r7"})
    assert waits == {of: {"waiting_for": "run r7", "waiting_since": 104.0}}
    assert story.tell("waited", "b") == {of: NO_WAIT}
    story.tell("waiting", "b", **{"for": "run r7"})
    assert story.tell("stage_reused", "b") == {of: {"action": "reuse", **NO_WAIT}}
    assert story.tell("a kind of its own", "b", done=3) == {}


def test_a_run_without_stages_has_a_row_only(story: Story) -> None:
    story.before = {}
    fields: dict[str, JSON] = {"recipe": "none", "plan_digest": "", "stages": []}
    assert story.tell("run_created", run_id="r3", **fields)["runs", "r3"]["recipe"] == "none"


def test_events_are_numbered_and_name_who_did_it_but_for_telemetry(story: Story) -> None:
    def work(connection: Connection) -> list[Event]:
        assert lock_run(connection, "r1", epoch=0).last_event == 3
        told = append_event(connection, "r1", "note", {"text": "x"}, epoch=4, stage_id="a", attempt_id="r1-a")
        return [told, append_event(connection, "r1", "progress", PROGRESS, epoch=4, attempt_id="r1-a")]

    note, progress = story.database.write(work)
    assert (note.id, note.epoch, note.stage_id, note.attempt_id) == ("r1/00000004", 4, "a", "r1-a")
    assert note.fields.keys() == {"text", ACTOR_FIELD}
    assert (progress.id, progress.fields) == ("r1/00000005", PROGRESS)
    assert story.database.read(rows)["runs", "r1"]["epoch"] == 4


def test_the_row_of_a_run_is_locked_for_its_epoch_only(story: Story) -> None:
    with pytest.raises(LeaseLostError, match="this driver has epoch 2, but epoch 0 has taken over"):
        story.database.write(lambda connection: lock_run(connection, "r1", epoch=2))
    with pytest.raises(DatabaseError, match="run r9: not in the database"):
        story.database.write(lambda connection: lock_run(connection, "r9"))
