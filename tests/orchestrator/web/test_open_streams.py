import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Message

from orchestrator.web import open_streams
from orchestrator.web.open_streams import OpenStreams, event_stream
from orchestrator.web.sign_in.users import local_user
from tests.orchestrator.web.conftest import MadeUp


def test_nobody_takes_all_places_and_each_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_streams, "MAX_STREAMS", 3)
    monkeypatch.setattr(open_streams, "MAX_OF_ONE", 2)
    streams = OpenStreams()
    assert [streams.enter(who) for who in ("ada", "ada", "ada", "bob", "bob")] == [True, True, False, True, False]
    streams.leave("ada")
    assert streams.enter("bob")
    for who in ("ada", "bob", "bob"):
        streams.leave(who)
    assert not streams.by_user


def request_of(app: Starlette, method: str) -> Request:
    request = Request({"type": "http", "method": method, "path": "/", "headers": [], "app": app, "state": {}})
    request.state.user = local_user("127.0.0.1")
    return request


def test_a_place_is_taken_before_the_first_line_and_given_back_when_the_page_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_streams, "MAX_STREAMS", 1)
    app, ended = Starlette(), []
    app.state.streams = OpenStreams()

    async def lines() -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "data: {}\n\n"
                await asyncio.sleep(0.001)
        finally:
            ended.append(True)

    async def receive() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        pass

    first = event_stream(request_of(app, "GET"), lines())
    assert event_stream(request_of(app, "GET"), lines()).status_code == 503, "the first has not even begun"
    head = event_stream(request_of(app, "HEAD"), lines())
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    asyncio.run(first({"type": "http"}, receive, send))
    assert ended == [True]
    assert not app.state.streams.by_user


@pytest.mark.parametrize("path", ["/events/stream", "/events/stream?run=r1", "/runs/r1/logs/raw-1-1.log/stream"])
def test_every_stream_answers_head_at_once_and_is_counted(
    client: TestClient, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    made_up.start("r1")
    folder = made_up.workspace.root / "store" / "runs" / "r1" / "logs"
    folder.mkdir(parents=True)
    (folder / "raw-1-1.log").write_text("one\n")
    answer = client.head(path)
    assert (answer.status_code, answer.text) == (200, "")
    monkeypatch.setattr(open_streams, "MAX_STREAMS", 0)
    refused = client.get(path)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    assert "too many streams are open" in refused.text
