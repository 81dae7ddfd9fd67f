import asyncio
import json

from starlette.testclient import TestClient

from orchestrator.actor import Actor, acting_as
from orchestrator.history.changes import record_change
from orchestrator.history.events import RunState
from orchestrator.queue.records import A_PERSON
from orchestrator.web.log_stream import log_lines
from orchestrator.web.service import Service
from orchestrator.web.settings import Settings
from tests.orchestrator.web.conftest import MadeUp


def test_a_service_without_runs_says_how_to_start_one(client: TestClient) -> None:
    answer = client.get("/runs")
    assert answer.status_code == 200
    assert "illume run quickstart" in answer.text


def test_runs_are_listed_newest_first_with_their_stages(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.commit("r1", "raw")
    made_up.end("r1")
    made_up.start("r2")
    made_up.fail("r2", "raw", "raw: line 3 is no record")
    made_up.end("r2", RunState.FAILED, "stage raw failed")
    found = client.get("/api/v1/runs").json()
    assert [run["run"] for run in found["runs"]] == ["r2", "r1"]
    assert [cell["state"] for cell in found["runs"][1]["strip"]] == ["COMMITTED", "NOT_RUN", "NOT_RUN", "NOT_RUN"]
    assert [(need["kind"], need["run"], need["stage"]) for need in found["needs"]] == [("failed", "r2", "raw")]
    page = client.get("/runs").text
    assert page.index("r2") < page.index("r1")


def test_a_stage_that_waits_for_a_person_needs_you(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.record("r1", "waiting", {"for": f"{A_PERSON}: `illume approve r1:model`"}, stage="model")
    (need,) = client.get("/api/v1/runs").json()["needs"]
    assert (need["kind"], need["stage"], need["command"]) == ("approval", "model", "illume approve r1:model")


def test_a_filter_lives_in_the_address_and_may_fit_nothing(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.end("r1")
    made_up.start("r2", recipe="other")
    assert [run["run"] for run in client.get("/api/v1/runs?recipe=tiny").json()["runs"]] == ["r1"]
    assert [run["run"] for run in client.get("/api/v1/runs?state=running").json()["runs"]] == ["r2"]
    answer = client.get("/runs?q=100%25")
    assert answer.status_code == 200
    assert "No run fits" in answer.text
    refused = client.get("/runs?state=done")
    assert refused.status_code == 400
    assert "expected one of PLANNED, RUNNING" in refused.text
    assert "did you mean" in client.get("/runs?stat=running").text


def test_htmx_gets_the_main_block_and_any_part_by_name(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    assert "<html" in client.get("/runs/r1").text
    assert "<html" not in client.get("/runs/r1", headers={"HX-Request": "true"}).text
    part = client.get("/runs/r1?part=part_stages").text
    assert "<table" in part
    assert "<h1>" not in part
    assert client.get("/runs/r1?part=nothing").status_code == 404


def test_every_response_forbids_what_is_not_ours(client: TestClient) -> None:
    for path in ("/runs", "/nothing", "/healthz", "/api/v1/runs"):
        assert client.get(path).headers["Content-Security-Policy"].startswith("default-src 'self';"), path


def test_a_run_that_is_gone_is_a_page_that_says_so(client: TestClient) -> None:
    answer = client.get("/runs/r9")
    assert answer.status_code == 404
    assert "run r9: not in" in answer.text
    assert client.get("/api/v1/runs/r9").json()["error"] == "Not found"


def test_events_say_who_and_are_filtered_and_exported(client: TestClient, made_up: MadeUp) -> None:
    with acting_as(Actor(user="alice", host="host7", command=("illume", "run", "tiny"), reason="new data")):
        made_up.start("r1")
    with acting_as(Actor(user="bob", host="host8")):
        made_up.start("r2", recipe="other")
        record_change(made_up.workspace.store, "pin", ["curate:abc"])
    found = client.get("/api/v1/events?actor=alice").json()["events"]
    assert [(row["kind"], row["run"], row["actor"]) for row in found] == [
        ("run_state", "r1", "alice@host7"),
        ("run_created", "r1", "alice@host7"),
    ]
    assert found[0]["reason"] == "new data"
    pins = client.get("/api/v1/events?kind=pin").json()["events"]
    assert [(row["actor"], row["text"]) for row in pins] == [("bob@host8", "curate:abc")]
    assert "No event fits" in client.get("/events?q=nothing+such").text
    lines = client.get("/events/export?run=r2").text.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["run_state", "run_created"]


def test_a_log_that_is_followed_tells_that_it_grew(settings: Settings, made_up: MadeUp) -> None:
    made_up.start("r1")
    folder = made_up.workspace.root / "store" / "runs" / "r1" / "logs"
    folder.mkdir(parents=True)
    (folder / "raw-1-1.log").write_text("one\n")
    service = Service(settings=settings)

    async def first_two() -> list[str]:
        lines = log_lines(service, "r1", "raw-1-1.log", 0)
        found = [await anext(lines), await anext(lines)]
        service.stopping.set()
        return found

    assert asyncio.run(first_two())[1].startswith('id: 4\ndata: {"run": "r1"')
    service.close()


def test_an_event_is_told_in_words_and_a_long_list_by_its_length(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.attempt("r1", "raw")
    shards = [[place, f"s{place}", 0.5, 1, 0] for place in range(40)]
    made_up.record("r1", "shards_done", {"label": "judge", "shards": shards}, stage="raw")
    texts = [event["text"] for event in client.get("/api/v1/events?run=r1").json()["events"]]
    assert 'label="judge" shards=40 entries' in texts
    assert "new → intent" in texts
    assert "intent → running" in texts
