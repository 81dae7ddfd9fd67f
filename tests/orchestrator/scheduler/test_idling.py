"""Trainings that mostly wait for data or hardly use their GPUs, from their metrics on record."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from orchestrator.history.database.schema import attempts, events
from orchestrator.scheduler.idling import DATA_WAIT, GPU_USE, IdleWatcher, idle_trainings, why_idle
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


def measure(workspace: Workspace, value: float, metric: str = DATA_WAIT) -> None:
    """A metric of 20 steps: seconds that each waited for its data, or the percentage that a GPU was at work."""
    [attempt] = workspace.database.read(lambda connection: connection.execute(attempts.select()).all())
    points = [[metric, value, step, NOW] for step in range(20)]
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


def test_one_whose_gpu_does_nothing_is_warned_about(workspace: Workspace) -> None:
    measure(workspace, 4.0, GPU_USE)
    told: list[str] = []
    IdleWatcher(notify=lambda _workspace, _occasion, text: told.append(text)).look(workspace, NOW)
    assert told == ["its GPU is at work 4% of the time\nillume logs r1:clean"]


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
    assert why_idle([9.0] * 9, 1.0, [0.0] * 9) == ""
    assert why_idle([9.0] * 10, 1.0, []) == "its steps wait for data 100% of their time"
    assert why_idle([], 1.0, [0.0] * 10) == "its GPU is at work 0% of the time"
    assert why_idle([0.1] * 10, 1.0, [90.0] * 10) == ""
