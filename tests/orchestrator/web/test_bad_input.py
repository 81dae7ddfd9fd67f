from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from orchestrator.errors import DatabaseError
from orchestrator.web.app import create_app
from orchestrator.web.settings import Settings
from orchestrator.workspace import Workspace
from tests.orchestrator.web.conftest import BASE_URL, MadeUp
from tests.orchestrator.web.views.test_logs import HOSTILE


def test_a_database_that_is_away_is_said_and_found_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.web.service.REOPEN_S", 0.0)
    is_away = [True]

    def open_workspace() -> Workspace:
        if is_away[0]:
            raise DatabaseError("database postgresql://host/name: connection refused")
        return settings.open()

    with TestClient(create_app(replace(settings, open=open_workspace)), base_url=BASE_URL) as client:
        answer = client.get("/runs")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
        assert "connection refused" in answer.text
        assert client.get("/healthz").status_code == 503
        assert "illume_up 0" in client.get("/metrics").text
        assert client.get("/api/v1/runs").json()["error"] == "The database is away"
        is_away[0] = False
        assert client.get("/runs").status_code == 200
        assert "illume_up 1" in client.get("/metrics").text


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_database_that_is_moved_under_the_service_is_said_and_another_one_is_opened(
    settings: Settings, client: TestClient, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    monkeypatch.setattr("orchestrator.web.service.REOPEN_S", 0.0)
    made_up.start("r1")
    assert client.get("/runs/r1").status_code == 200
    index = made_up.workspace.root / "index.db"
    moved = index.rename(index.with_name("moved.db"))
    if is_replaced:
        with Workspace.open(root=made_up.workspace.root, tracking_url="none"):
            pass
        assert client.get("/runs/r1").status_code == 404, "it is not in the new one"
        assert client.get("/runs").status_code == 200
    else:
        answer = client.get("/runs")
        assert answer.status_code == 503
        assert "the database is gone" in answer.text
        assert "the database is gone" in client.get("/healthz").text
        moved.rename(index)
        assert client.get("/runs/r1").status_code == 200


def test_what_is_at_no_address_says_where_to_look(client: TestClient) -> None:
    assert "Nothing is at this address" in client.get("/nothing").text
    assert "Nothing is at this address" in client.get("/api/v1/nothing").json()["message"]
    wrong = client.post("/api/v1/runs", json={})
    assert wrong.status_code == 405
    assert "does not take this method" in wrong.json()["message"]
    assert client.get("/api/v1/runs/r1/cancel").status_code == 405


def test_a_store_of_a_newer_version_stands_above_each_page_which_goes_on(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    (made_up.workspace.root / "store" / "STORE.json").write_text('{"format": 99, "store_id": "x", "created": ""}')
    answer = client.get("/runs")
    assert answer.status_code == 200
    assert "r1" in answer.text
    assert "STORE.json" in answer.text


def test_a_plan_that_is_gone_leaves_the_rest_of_the_pages(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    for plan in (made_up.workspace.root / "store" / "plans").glob("*.json"):
        plan.unlink()
    assert client.get("/runs/r1").status_code == 200
    answer = client.get("/runs/r1/stages/raw")
    assert answer.status_code == 200
    assert "its plan" in answer.text


def test_a_run_that_is_deleted_under_the_page_is_said(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    assert client.get("/runs/r1").status_code == 200
    database = made_up.workspace.database
    database.write(lambda connection: connection.exec_driver_sql("delete from runs"))
    assert client.get("/runs/r1").status_code == 404
    assert "any more" in client.get("/runs/r1", headers={"HX-Request": "true"}).text


@pytest.mark.parametrize("path", ["/runs", "/runs/r1", "/runs/r1/stages/raw", "/events"])
def test_names_and_messages_that_try_are_text(client: TestClient, made_up: MadeUp, path: str) -> None:
    made_up.start("r1", recipe="tiny<b>x")
    made_up.record("r1", "note<i>", {"text": HOSTILE}, stage="raw")
    made_up.fail("r1", "raw", HOSTILE, recipe="tiny<b>x")
    page = client.get(path).text
    for bad in ("<script>alert", "<img src=x", "<b>x", "<i>"):
        assert bad not in page, bad


@pytest.mark.parametrize(
    "path",
    [
        "/runs/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/runs?q=%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/runs?before=%3Cscript%3E",
        "/nothing/%3Cscript%3E",
        "/static/abc/..%2F..%2Fapp.py",
        "/static/abc/%2Fetc%2Fpasswd",
        "/events?before=1,2",
        "/runs/r1?part=%3Cscript%3E",
        "/static/x/%00",
        f"/static/x/{'a' * 5000}",
        f"/events?before=1,x,{2**63}",
        f"/events/export?before=1,x,{2**63}",
        f"/events/stream?after={'9' * 30}",
        f"/events/stream?run=r1&after={'9' * 5000}",
    ],
)
def test_addresses_that_try_are_answered_and_not_obeyed(client: TestClient, made_up: MadeUp, path: str) -> None:
    made_up.start("r1")
    answer = client.get(path)
    assert answer.status_code in (200, 400, 404)
    assert "<script>alert" not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Origin": "http://["}, b"{}", 403),
        ({}, b"[" * 60_000, 400),
        ({}, b'{"reason": "\\ud800"}', 400),
        ({}, b'{"reason": "\\u0000"}', 400),
        ({}, b'{"reason": 3}', 400),
    ],
)
def test_bodies_that_try_are_refused(
    client: TestClient, made_up: MadeUp, headers: dict[str, str], body: bytes, status: int
) -> None:
    made_up.start("r1")
    sent = {"Content-Type": "application/json", **headers}
    assert client.post("/api/v1/runs/r1/cancel", headers=sent, content=body).status_code == status


def test_a_file_of_tokens_that_broke_is_told_to_the_log_and_not_to_strangers(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("")
    with TestClient(create_app(replace(settings, token_file=tokens)), base_url=BASE_URL) as client:
        tokens.write_text("one word\n")
        answer = client.get("/api/v1/runs", headers={"Authorization": "Bearer secret"})
        assert answer.status_code == 503
        assert str(tokens) not in answer.text
        assert str(tokens) in caplog.text
        assert client.get("/healthz").status_code == 200


def test_a_bug_is_a_page_without_its_text(settings: Settings) -> None:
    def broken() -> Workspace:
        raise KeyError("a secret")

    app = create_app(replace(settings, open=broken))
    with TestClient(app, base_url=BASE_URL, raise_server_exceptions=False) as client:
        answer = client.get("/runs")
    assert answer.status_code == 500
    assert "This is a bug in illume" in answer.text
    assert "a secret" not in answer.text


def test_static_files_are_kept_for_ever_under_their_digest(client: TestClient) -> None:
    page = client.get("/runs").text
    address = page.split('rel="stylesheet" href="')[1].split('"')[0]
    answer = client.get(address)
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    name = address.split("/", 3)[3]
    assert client.get(f"/static/000000000000/{name}").status_code == 404
