import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.web import stream
from orchestrator.web.page import BadRequestError, NotFoundError
from orchestrator.web.service import Service
from orchestrator.web.settings import Settings
from orchestrator.web.stream import Feed, event_text, new_messages, read_heads, start_after
from tests.orchestrator.web.conftest import MadeUp


@pytest.fixture
def feed(settings: Settings, made_up: MadeUp) -> Feed:
    return Feed(service=Service(settings=settings))


def data_of(messages: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for text in messages for line in text.splitlines() if line.startswith("data: ")]


def test_a_stream_goes_on_after_the_last_event_that_was_seen(feed: Feed, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.commit("r1", "raw")
    after = start_after(feed.service, "r1", "2")
    feed.heads = read_heads(feed.service.workspace())
    messages = new_messages(feed, "r1", after)
    assert [event["sequence"] for event in data_of(messages)] == list(range(3, 6))
    assert messages[0].startswith("id: 3\ndata: ")
    assert new_messages(feed, "r1", after) == []
    made_up.end("r1")
    feed.heads = read_heads(feed.service.workspace())
    (event,) = data_of(new_messages(feed, "r1", after))
    assert (event["kind"], event["fields"]["to"]) == ("run_state", "SUCCEEDED")


def test_the_stream_of_all_runs_misses_nothing_after_a_break(feed: Feed, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.start("r2", recipe="other")
    after = start_after(feed.service, "", "r1/2")
    feed.heads = read_heads(feed.service.workspace())
    found = {(event["run"], event["sequence"]) for event in data_of(new_messages(feed, "", after))}
    assert {("r1", 2), ("r2", 1), ("r2", 2)} <= found
    assert new_messages(feed, "", start_after(feed.service, "", "")) == [], "from now on"


def test_only_the_overlap_is_sent_twice(feed: Feed, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "OVERLAP_S", 0.0)
    made_up.start("r1")
    made_up.commit("r1", "raw")
    assert start_after(feed.service, "", "r1/3") == {"r1": 2}


def test_an_id_that_is_none_of_ours_is_refused(feed: Feed, made_up: MadeUp) -> None:
    made_up.start("r1")
    for last in ("x", "-1", "1.5"):
        with pytest.raises(BadRequestError, match="expected the number of an event"):
            start_after(feed.service, "r1", last)
    with pytest.raises(NotFoundError, match="run r9"):
        start_after(feed.service, "r9", "")


def test_an_event_is_small_and_names_no_secret(feed: Feed, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.record("r1", "note", {"long": "x" * 5000}, stage="raw")
    events = made_up.workspace.runs.events("r1")
    created = data_of([event_text(events[0], is_of_one_run=True)])[0]
    assert "actor" not in created["fields"]
    assert data_of([event_text(events[-1], is_of_one_run=True)])[0]["fields"] == {}


def test_the_stream_is_refused_before_it_begins(client: TestClient) -> None:
    assert client.get("/events/stream?run=r9").status_code == 404
