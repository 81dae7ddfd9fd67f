from collections.abc import Callable

import pytest

from orchestrator.actor import Actor, acting_as
from orchestrator.history.database.database import Database
from orchestrator.history.events import EventKind, RunState
from orchestrator.history.run_search import (
    RunFilter,
    attempts_of_runs,
    events_of_kinds,
    recipes_of_runs,
    search_runs,
    starters_of_runs,
)
from orchestrator.history.run_status import run_status, run_statuses
from tests.orchestrator.conftest import Story

Tell = Callable[[Database, str], Story]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (RunFilter(), ["r2", "r1"]),
        (RunFilter(ids=("r1",)), ["r1"]),
        (RunFilter(states=(RunState.FAILED,)), []),
        (RunFilter(states=(RunState.SUCCEEDED,), recipe="tiny"), ["r2", "r1"]),
        (RunFilter(recipe="tin"), []),
        (RunFilter(text="CLEA"), ["r2", "r1"]),  # of a stage
        (RunFilter(text="r_"), []),  # no wildcard
        (RunFilter(text="R2"), ["r2"]),
        (RunFilter(owner="bob"), ["r2"]),
        (RunFilter(owner="bo"), []),
    ],
)
def test_a_filter_finds_runs_newest_first(
    database: Database, tell_story: Tell, wanted: RunFilter, found: list[str]
) -> None:
    for run_id, user in (("r1", "alice"), ("r2", "bob")):
        with acting_as(Actor(user=user, host="host7")):
            tell_story(database, run_id)
    assert [run.run_id for run in search_runs(database, wanted, limit=10)] == found


def test_pages_go_on_where_the_one_before_ended(database: Database, tell_story: Tell) -> None:
    for run_id in ("r1", "r2", "r3"):
        tell_story(database, run_id)
    first = search_runs(database, RunFilter(), limit=2)
    rest = search_runs(database, RunFilter(before=(first[-1].created_at, first[-1].run_id)), limit=2)
    assert [run.run_id for run in (*first, *rest)] == ["r3", "r2", "r1"]


def test_the_statuses_of_many_runs_are_those_of_each(database: Database, tell_story: Tell) -> None:
    for run_id in ("r1", "r2"):
        tell_story(database, run_id)
    found = run_statuses(database, search_runs(database, RunFilter(), limit=5))
    assert found == [run_status(database, "r2"), run_status(database, "r1")]


def test_attempts_events_and_starters_are_found_by_run(database: Database, tell_story: Tell) -> None:
    with acting_as(Actor(user="alice", host="host7")):
        tell_story(database, "r1")
    attempts = attempts_of_runs(database, ["r1", "r9"])
    assert [(row.number, row.state) for row in attempts["r1"]] == [(1, "FAILED"), (2, "COMMITTED")]
    assert attempts["r9"] == []
    assert attempts_of_runs(database, ["r1"], "other") == {"r1": []}
    assert starters_of_runs(database, ["r1", "r9"])["r1"].name == "alice@host7"
    states = events_of_kinds(database, "r1", [EventKind.RUN_STATE])
    assert [event.fields["to"] for event in states] == ["RUNNING", "INTERRUPTED", "RUNNING", "SUCCEEDED"]
    assert events_of_kinds(database, "r1", [EventKind.RUN_STATE], newest=1) == states[-1:]
    assert recipes_of_runs(database) == ["tiny"]
