"""The run's page has its newest events and the end of the log, and what belongs together has one mark."""

import re

from starlette.testclient import TestClient

from tests.orchestrator.web.conftest import MadeUp


def put_log(made_up: MadeUp, name: str, text: str) -> None:
    folder = made_up.workspace.root / "store" / "runs" / "r1" / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_a_bar_its_events_and_its_log_lines_have_one_mark(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    attempt = made_up.attempt("r1", "raw")
    put_log(made_up, "raw-1-1.log", "".join(f"line {number} of <b>the</b> log\n" for number in range(100)))
    page = client.get("/runs/r1").text
    tied = re.findall(rf'<(\w+)[^>]* data-tie="[^"]*attempt:{attempt}"', page)
    assert {"a", "li", "div"} <= set(tied), "the bar, an event, a line of the log"
    assert "line 99 of &lt;b&gt;the&lt;/b&gt; log" in page
    assert "line 91 " not in page
    assert 'href="/runs/r1/logs/raw-1-1.log?follow=1"' in page


def test_the_log_of_what_failed_is_shown_when_nothing_is_at_work(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.fail("r1", "raw", "no memory left")
    assert client.get("/api/v1/runs/r1").json()["log"] is None, "it has not begun"
    put_log(made_up, "raw-1-1.log", "the last words\n")
    log = client.get("/api/v1/runs/r1").json()["log"]
    assert (log["stage"], log["lines"], log["link"]) == ("raw", ["the last words"], "/runs/r1/logs/raw-1-1.log")
    kinds = [event["kind"] for event in client.get("/api/v1/runs/r1").json()["latest"]]
    assert kinds == ["attempt_state", "attempt_state", "attempt_state", "run_state", "run_created"]
