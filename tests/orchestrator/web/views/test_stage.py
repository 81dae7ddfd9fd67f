import re
import time

import pytest
from starlette.testclient import TestClient

from orchestrator.attempt_id import AttemptId
from orchestrator.history.events import AttemptState, EventKind, RunState
from orchestrator.history.telemetry import Telemetry
from tests.orchestrator.web.conftest import MadeUp
from tests.orchestrator.web.views.test_logs import HOSTILE


def record_shards(made_up: MadeUp, attempt: str, *, num_shards: int) -> None:
    """The events of a map of which the first tenth existed; one shard was slow, one retried, one has quarantined."""
    reused = num_shards // 10
    say = {"stage": "raw", "attempt": attempt}
    made_up.record("r1", "shards_planned", {"label": "judge", "shards": num_shards, "reused": reused}, **say)
    made_up.record("r1", "shards_found", {"label": "judge", "ranges": [[0, reused - 1]]}, **say)
    special = {reused + 1: [41.5, 1, 0], reused + 2: [1.0, 3, 0], reused + 3: [1.0, 1, 7]}
    done = [[place, f"s-{place:05d}", *special.get(place, [0.5, 1, 0])] for place in range(reused, num_shards - 1)]
    made_up.record("r1", "shards_done", {"label": "judge", "shards": done}, **say)


@pytest.fixture
def attempt(made_up: MadeUp) -> str:
    made_up.start("r1")
    found = made_up.attempt("r1", "raw")
    record_shards(made_up, found, num_shards=500)
    return found


def test_shards_are_a_strip_and_lists(client: TestClient, attempt: str, made_up: MadeUp) -> None:
    (found,) = client.get("/api/v1/runs/r1/stages/raw").json()["maps"]
    assert (found["num_shards"], found["num_reused"], found["num_done"]) == (500, 50, 449)
    assert (found["num_retried"], found["num_quarantined"], len(found["cells"])) == (1, 7, 167)
    assert "449 made, 1 retried, 7 items quarantined" in client.get("/runs/r1/stages/raw").text

    def names(order: str) -> list[str]:
        rows = client.get(f"/api/v1/runs/r1/stages/raw/shards?order={order}").json()["rows"]
        return [row["name"] for row in rows]

    assert names("slowest")[0] == "s-00051"
    assert len(names("slowest")) == 100
    assert names("retried") == ["s-00052"]
    assert names("quarantined") == ["s-00053"]
    part = client.get("/api/v1/runs/r1/stages/raw/shards?first=60&last=61&order=place").json()
    assert [row["place"] for row in part["rows"]] == [60, 61]
    assert client.get("/runs/r1/stages/raw/shards?order=size").status_code == 400
    assert client.get("/runs/r1/stages/raw/shards?map=3").status_code == 404
    made_up.record("r1", "shards_done", {"label": "judge", "shards": [[499, "s-00499", 60.0, 1, 0]]},
                   stage="raw", attempt=attempt)  # fmt: skip
    assert names("slowest")[0] == "s-00499", "what is new is read too"


def test_attempts_are_tabs_each_with_its_own_words(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.fail("r1", "raw", f"raw: no record\n{HOSTILE}", failure_class="data")
    made_up.attempt("r1", "raw", number=2)
    newest = client.get("/api/v1/runs/r1/stages/raw").json()
    assert (newest["attempt"], newest["attempt_state"], newest["message"]) == (2, "RUNNING", "")
    first = client.get("/runs/r1/stages/raw?attempt=1").text
    assert '<span class="badge">data</span>' in first
    assert "<script>alert" not in first
    assert client.get("/runs/r1/stages/raw?attempt=3").status_code == 404
    assert "it has raw, curated" in client.get("/runs/r1/stages/rwa").text


def test_a_gate_without_a_number_yet_has_no_verdict(client: TestClient, attempt: str) -> None:
    (gate,) = client.get("/api/v1/runs/r1/stages/raw").json()["gates"]
    assert (gate["metric"], gate["at_least"], gate["holds"]) == ("kept", 10.0, None)


def test_the_run_says_why_what_waits_and_what_failed_first(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.record("r1", EventKind.WAITING, {"for": "2 GPUs"}, stage="raw")
    made_up.record("r1", EventKind.WAITED, {"for": "2 GPUs"}, stage="raw")
    made_up.fail("r1", "raw", "raw: the first failure", failure_class="data")
    made_up.fail("r1", "curated", "curated: a consequence", failure_class="node_lost")
    made_up.end("r1", RunState.FAILED, "2 stages failed")
    run = client.get("/api/v1/runs/r1").json()
    failure = run["first_failure"]
    assert (failure["stage"], failure["failure_class"], failure["num_later"]) == ("raw", "data", 1)
    assert failure["command"] == "illume resume r1"
    (wait,) = run["stages"][0]["waits"]
    assert wait["text"] == "2 GPUs"
    assert wait["until"] >= wait["since"]
    assert run["stages"][0]["reasons"] == ["never made"]
    page = client.get("/runs/r1").text
    assert "What failed first" in page
    assert "raw: the first failure" in page


def test_a_retry_that_works_is_no_failure(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.fail("r1", "raw", "a network error", failure_class="infra_transient")
    made_up.commit("r1", "raw", number=2)
    run = client.get("/api/v1/runs/r1").json()
    assert run["first_failure"] is None
    assert run["stages"][0]["how"] == "recovered"
    assert [need["kind"] for need in run["needs"]] == []


def test_what_needs_a_person(client: TestClient, made_up: MadeUp) -> None:
    for recipe, message, failure in (
        ("a", "raw: gates.kept: found 3, expected at least 10", "user_code"),
        ("b", "raw: 12 of 100 items were quarantined", "data_poison"),
    ):
        made_up.start(recipe, recipe=recipe)
        made_up.fail(recipe, "raw", message, failure_class=failure, recipe=recipe)
        made_up.end(recipe, RunState.FAILED)
    made_up.start("c", recipe="c")
    made_up.workspace.leases.release(made_up.leases["c"])  # its driver ended without a word
    needs = client.get("/api/v1/runs").json()["needs"]
    assert {need["run"]: need["kind"] for need in needs} == {
        "a": "gate_refused",
        "b": "quarantine",
        "c": "driver_gone",
    }
    assert "Needs you" in client.get("/runs").text


def report(made_up: MadeUp, stage: str, *, number: int) -> None:
    """Progress and metrics of an attempt."""
    telemetry = Telemetry(made_up.workspace.database)
    tracker = telemetry.tracker(AttemptId.of("r1", stage, epoch=1, number=number))
    tracker.progress(3, 9, "steps")
    tracker.log_metrics({"loss": 0.5}, step=3)
    telemetry.close()


def test_how_long_nothing_was_heard_is_said_of_the_living_and_the_dead(
    client: TestClient, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up.start("r1")
    made_up.attempt("r1", "model")
    report(made_up, "model", number=1)
    addresses = ("/runs", "/runs/r1", "/runs/r1/stages/model")
    for address in addresses:
        assert "no progress for" not in client.get(address).text
    assert "under 1 min ago" in client.get("/runs/r1").text
    later = time.time() + 600
    monkeypatch.setattr("orchestrator.web.rendering.time.time", lambda: later)
    for address in addresses:
        assert "no progress for 10 min" in client.get(address).text.lower()
    assert "counts as hanging" not in client.get("/runs/r1/stages/model").text, "its plan does not say when"
    assert re.search(r"10 min \d\d s ago", client.get("/runs/r1").text)
    made_up.workspace.leases.release(made_up.leases["r1"])  # its driver is gone
    for address in addresses[:2]:
        assert "no progress for 10 min" in client.get(address).text
    assert re.search(r"10 min \d\d s ago", client.get("/runs/r1/stages/model").text)
    assert "Nobody works on it" in client.get("/runs/r1/stages/model").text
    assert client.get("/api/v1/runs/r1/stages/model").json()["attempt_state"] == "ABANDONED"


def test_a_report_of_an_attempt_before_says_nothing_of_this_one(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    first = made_up.attempt("r1", "model")
    report(made_up, "model", number=1)
    made_up.workspace.runs.transition_attempt(first, AttemptState.RUNNING, AttemptState.FAILED, epoch=1, fields={})
    made_up.attempt("r1", "model", number=2)
    found = client.get("/api/v1/runs/r1/stages/model").json()["row"]
    assert not found["has_reported"]
    assert found["silent_since"] == found["attempts"][1]["began_at"]


def test_a_large_map_is_read_over_several_requests(
    client: TestClient, attempt: str, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.web.shards.PAGE_EVENTS", 1)
    monkeypatch.setattr("orchestrator.web.shards.READ_S", -1.0)
    found = client.get("/api/v1/runs/r1/stages/raw").json()
    assert (found["has_all_shards"], found["maps"][0]["num_done"]) == (False, 0)
    assert "the strip grows" in client.get("/runs/r1/stages/raw").text
    assert "the strip grows" in client.get("/runs/r1/stages/raw/shards").text
    found = client.get("/api/v1/runs/r1/stages/raw").json()
    assert (found["has_all_shards"], found["maps"][0]["num_done"]) == (True, 449)
    assert "the strip grows" not in client.get("/runs/r1/stages/raw").text
