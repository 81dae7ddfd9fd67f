from collections.abc import Callable

import pytest

from orchestrator.actor import Actor, acting_as
from orchestrator.history import event_search
from orchestrator.history.database.database import Database
from orchestrator.history.event_search import EventFilter, search_events
from orchestrator.history.events import EventKind
from tests.orchestrator.conftest import Story

Tell = Callable[[Database, str], Story]


def told(database: Database, tell_story: Tell) -> None:
    for run_id, user in (("r1", "alice"), ("r2", "bob")):
        with acting_as(Actor(user=user, host="host7")):
            tell_story(database, run_id)


def test_events_come_newest_first_in_pages_that_lose_none(database: Database, tell_story: Tell) -> None:
    told(database, tell_story)
    whole = search_events(database, EventFilter(has_telemetry=True), limit=1000)
    assert whole.scanned_to is None
    assert (
        list(whole.events) == sorted(whole.events, key=lambda event: (event.time, event.run_id, event.sequence))[::-1]
    )
    found, place = [], None
    while True:
        page = search_events(database, EventFilter(has_telemetry=True, before=place), limit=3)
        found += page.events
        place = page.scanned_to
        if place is None:
            break
    assert found == list(whole.events)


@pytest.mark.parametrize(
    ("wanted", "runs", "kinds"),
    [
        (EventFilter(kind=EventKind.METRICS), {"r1", "r2"}, {"metrics"}),
        (EventFilter(run_id="r1", kind="run_created"), {"r1"}, {"run_created"}),
        (EventFilter(actor="ali*", kind="run_created"), {"r1"}, {"run_created"}),
        (EventFilter(actor="bob@host7", kind="run_created"), {"r2"}, {"run_created"}),
        (EventFilter(text="INFRA_TRANSIENT"), {"r1", "r2"}, {"attempt_state"}),
        (EventFilter(text="50% of"), set(), set()),
        (EventFilter(actor="carol"), set(), set()),
    ],
)
def test_filters(database: Database, tell_story: Tell, wanted: EventFilter, runs: set[str], kinds: set[str]) -> None:
    told(database, tell_story)
    found = search_events(database, wanted, limit=100).events
    assert {event.run_id for event in found} == runs
    assert {event.kind for event in found} == kinds


def test_one_page_looks_at_a_bounded_number_and_says_where_to_go_on(
    database: Database, tell_story: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(database, tell_story)
    monkeypatch.setattr(event_search, "MAX_SCANNED", 2)
    page = search_events(database, EventFilter(text="fits nothing"), limit=10)
    assert page.events == ()
    assert page.scanned_to is not None
