from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from orchestrator.actor import Actor
from orchestrator.history.events import EventKind, RunState
from orchestrator.history.run_search import events_of_kinds
from orchestrator.web.actions import ACTIONS
from orchestrator.web.service import Service
from orchestrator.web.settings import Settings
from orchestrator.web.sign_in.users import Role, User
from tests.orchestrator.web.conftest import ClientOf, MadeUp


def form_token(client: TestClient) -> str:
    client.get("/runs")
    return client.cookies["illume_form"]


def test_a_run_is_stopped_by_a_form_and_who_did_it_is_on_record(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    page = client.get("/runs/r1").text
    assert f'name="form_token" value="{client.cookies["illume_form"]}"' in page
    answer = client.post("/runs/r1/cancel", data={"form_token": form_token(client), "reason": "wrong data"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/r1")
    (event,) = events_of_kinds(made_up.workspace.database, "r1", [EventKind.CANCEL_REQUESTED])
    actor = event.fields["actor"]
    assert isinstance(actor, dict)
    assert (actor["command"], actor["reason"]) == ("illume serve 'cancel r1'", "wrong data")
    page = client.get("/runs/r1").text
    assert "Asked to stop by" in page
    assert 'action="/runs/r1/cancel"' not in page


@pytest.mark.parametrize("token", ["", "guess"])
def test_a_form_that_is_not_ours_does_nothing(client: TestClient, made_up: MadeUp, token: str) -> None:
    made_up.start("r1")
    client.get("/runs")
    answer = client.post("/runs/r1/cancel", data={"form_token": token})
    assert answer.status_code == 403
    assert "reload the page" in answer.text
    assert not made_up.workspace.runs.cancel_requested("r1")


def test_of_two_who_press_the_same_button_one_wins_and_the_other_is_told(settings: Settings, made_up: MadeUp) -> None:
    made_up.start("r1")
    (cancel,) = [action for action in ACTIONS if action.name == "cancel"]
    services = [Service(settings=settings), Service(settings=settings)]  # two servers side by side
    users = [User(name=name, role=Role.OPERATOR, address="10.0.0.1", by="token") for name in ("alice", "bob")]

    def press(number: int) -> str:
        try:
            return cancel.run(services[number], users[number], {"run": "r1"}, {}).message
        except Exception as error:  # noqa: BLE001 - what the other is told
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(press, range(2)))
    assert sum("asked to stop; follow it" in text for text in told) == 1, told
    assert sum("asked it to stop already" in text for text in told) == 1, told
    assert len(events_of_kinds(made_up.workspace.database, "r1", [EventKind.CANCEL_REQUESTED])) == 1
    for service in services:
        service.close()


def test_what_is_over_is_not_stopped(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.end("r1", RunState.SUCCEEDED)
    answer = client.post("/api/v1/runs/r1/cancel", json={})
    assert answer.status_code == 409
    assert "has ended as SUCCEEDED" in answer.json()["message"]
    assert answer.json()["error"] == "This cannot be done any more", "nobody was faster"
    assert client.post("/api/v1/runs/r9/cancel", json={}).status_code == 404


@pytest.mark.parametrize(
    "body", [b"[1]", b'{"reason": 1}', b"{", b'{"force": "yes"}', b'{"reason": "%s"}' % (b"x" * 501)]
)
def test_bodies_that_cannot_be_used_are_refused(client: TestClient, made_up: MadeUp, body: bytes) -> None:
    made_up.start("r1")
    json_type = {"Content-Type": "application/json"}
    assert client.post("/api/v1/runs/r1/cancel", content=body, headers=json_type).status_code == 400
    huge = b'{"reason": "' + b"x" * 70_000 + b'"}'
    assert client.post("/api/v1/runs/r1/cancel", content=huge, headers=json_type).status_code == 400


def test_the_one_at_the_machine_is_who_the_command_line_names(client_of: ClientOf, made_up: MadeUp) -> None:
    user = User(name="alice", role=Role.OPERATOR, address="10.0.0.7", by="token")
    assert user.actor("cancel r1", "why") == Actor(
        user="alice", host="10.0.0.7", token_name="alice", command=("illume", "serve", "cancel r1"), reason="why"
    )
