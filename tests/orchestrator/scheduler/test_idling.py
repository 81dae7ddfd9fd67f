"""Trainings that mostly wait for data, from their metrics on record."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from orchestrator.history.database.schema import attempts, events
from orchestrator.scheduler.idling import IdleWatcher, idle_trainings, wait_share
from orchestrator.workspace import Workspace
from tests.orchestrator.history.test_run_store import intended, started

NOW = 1_800_000_000.0


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A run whose first attempt trains for an hour, one step a second."""
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as found:
        epoch = started(found.runs, found.database)
        found.runs.start_attempt(intended(epoch))
        values = {"state": "RUNNING", "started_at": NOW - 3600.0, "unit": "steps", "rate_per_s": 1.0}
        found.database.write(lambda connection: connection.execute(update(attempts).values(values)))
        yield found


def measure(workspace: Workspace, wait_s: float) -> None:
    """Metrics of 20 steps that each waited so long for its data."""
    [attempt] = workspace.database.read(lambda connection: connection.execute(attempts.select()).all())
    points = [["data_wait_s", wait_s, step, NOW] for step in range(20)]
    row = {
        "run_id": attempt.run_id,
        "sequence": 1000,
        "time": NOW - 60,
        "epoch": 1,
        "kind": "metrics",
        "stage_id": attempt.stage_id,
        "attempt_id": attempt.attempt_id,
        "fields": json.dumps({"points": points, "first": 0}),
    }
    workspace.database.write(lambda connection: connection.execute(insert(events).values(row)))


def test_one_that_mostly_waits_is_warned_about_once_it_lasts(workspace: Workspace) -> None:
    measure(workspace, 0.8)
    told: list[str] = []
    watcher = IdleWatcher(notify=lambda _workspace, _occasion, text: told.append(text))
    assert watcher.look(workspace, NOW) == {}
    assert told == ["its steps wait for data 80% of their time\nillume logs r1:clean"]
    found = workspace.database.read(lambda connection: idle_trainings(connection, NOW, 7200.0))
    assert found == [], "it has not lasted for two hours"


def test_one_that_computes_is_left_alone(workspace: Workspace) -> None:
    measure(workspace, 0.2)
    IdleWatcher(notify=lambda *_: pytest.fail("it computes")).look(workspace, NOW)


def test_one_is_stopped_only_if_servers_are_told_to(workspace: Workspace) -> None:
    measure(workspace, 0.8)
    IdleWatcher(notify=lambda *_: None).look(workspace, NOW)
    assert not workspace.runs.cancel_requested("r1")
    IdleWatcher(notify=lambda *_: None, stops=True).look(workspace, NOW)
    assert workspace.runs.cancel_requested("r1")


def test_a_few_steps_say_nothing() -> None:
    assert wait_share([9.0] * 5, 1.0) == 0.0
    assert wait_share([9.0] * 10, 1.0) == 1.0
