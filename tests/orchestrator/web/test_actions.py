import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from orchestrator.actor import Actor
from orchestrator.artifact import JSON
from orchestrator.errors import OrchestratorError
from orchestrator.history.events import EventKind, RunState
from orchestrator.history.run_search import events_of_kinds
from orchestrator.planning.plan import make_plan
from orchestrator.planning.plan_file import plan_digest
from orchestrator.planning.store_view import plan_view
from orchestrator.queue.entries import open_entries
from orchestrator.queue.records import A_PERSON, THIS_MACHINE, Approval, PoolRecord, Submission
from orchestrator.queue.rows import newest_of
from orchestrator.recipe.loading import Kinds, load_recipe
from orchestrator.scheduler.submitting import stage_needs, submit
from orchestrator.times import iso_time
from orchestrator.web.actions import ACTIONS
from orchestrator.web.service import Service
from orchestrator.web.settings import Settings
from orchestrator.web.sign_in.users import Role, User
from orchestrator.workspace import Workspace, new_run_id
from tests.orchestrator.test_cli import KINDS, RECIPE
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
    told = press_together(settings, "cancel", {"run": "r1"}, {})
    assert sum("asked to stop; follow it" in text for text in told) == 1, told
    assert sum("asked it to stop already" in text for text in told) == 1, told
    assert len(events_of_kinds(made_up.workspace.database, "r1", [EventKind.CANCEL_REQUESTED])) == 1


def test_what_is_over_is_not_stopped(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.end("r1", RunState.SUCCEEDED)
    answer = client.post("/api/v1/runs/r1/cancel", json={})
    assert answer.status_code == 409
    assert "has ended as SUCCEEDED" in answer.json()["message"]
    assert answer.json()["error"] == "This cannot be done any more", "nobody was faster"
    assert client.post("/api/v1/runs/r9/cancel", json={}).status_code == 404


def press_together(settings: Settings, action_name: str, path: dict[str, str], fields: dict[str, str]) -> list[str]:
    """Two people at two servers press a button at one moment; what each is told."""
    (action,) = [action for action in ACTIONS if action.name == action_name]
    services = [Service(settings=settings), Service(settings=settings)]
    users = [User(name=name, role=Role.OPERATOR, address="10.0.0.1", by="token") for name in ("alice", "bob")]

    def press(number: int) -> str:
        try:
            return action.run(services[number], users[number], path, fields).message
        except OrchestratorError as error:
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(press, range(2)))
    for service in services:
        service.close()
    return told


def submitted_run(root: Path, kinds: Kinds, *, approval: bool = False) -> str:
    """A run in the queue of stages that can be run."""
    recipe_file = root.parent / "words.yaml"
    stage = "config: {times: 2}, approval: true" if approval else "config: {times: 2}"
    recipe_file.write_text(RECIPE.replace("config: {times: 2}", stage))
    with Workspace.open(root=root, tracking_url="none") as workspace:
        plan = make_plan(load_recipe(recipe_file, kinds), plan_view(workspace.artifacts, workspace.database))
        run_id = new_run_id()
        submission = Submission(
            at=iso_time(time.time()), run_id=run_id, recipe=plan.recipe, plan_digest=plan_digest(plan), person="ada",
            pool=PoolRecord(name=THIS_MACHINE), stages=stage_needs(plan),
        )  # fmt: skip
        submit(workspace, plan, submission)
    return run_id


@pytest.fixture
def words(settings: Settings) -> Settings:
    return replace(settings, kinds=KINDS)


@pytest.mark.parametrize("end", [RunState.FAILED, RunState.CANCELLED])
def test_of_two_who_resume_a_run_one_puts_it_into_the_queue(words: Settings, made_up: MadeUp, end: RunState) -> None:
    database = made_up.workspace.database
    run_id = submitted_run(made_up.workspace.root, words.kinds)
    lease = made_up.workspace.leases.acquire(f"run:{run_id}")
    assert lease is not None
    epoch = made_up.workspace.runs.begin_epoch(run_id, lease)
    made_up.workspace.runs.transition_run(run_id, RunState.RUNNING, end, epoch=epoch)
    made_up.workspace.leases.release(lease)
    assert open_entries(database) == []
    told = press_together(words, "resume", {"run": run_id}, {})
    assert sum("is in the queue; it waits until a server has a scheduler" in text for text in told) == 1, told
    assert sum("AlreadyDoneError" in text for text in told) == 1, told
    (entry,) = open_entries(database)
    assert (entry.run_id, entry.state) == (run_id, "WAITING")
    (event,) = events_of_kinds(database, run_id, [EventKind.RUN_STATE], newest=1)
    assert (event.fields["from"], event.fields["to"]) == (end, RunState.PLANNED)
    actor = event.fields["actor"]
    assert isinstance(actor, dict)
    assert actor["command"] == f"illume serve 'resume {run_id}'"
    lease = made_up.workspace.leases.acquire(f"run:{run_id}")
    assert lease is not None
    assert made_up.workspace.runs.begin_epoch(run_id, lease) == epoch + 1


def test_a_page_queues_again_says_that_no_scheduler_lives_and_shows_the_place(
    client_of: ClientOf, words: Settings, made_up: MadeUp
) -> None:
    run_id = submitted_run(made_up.workspace.root, words.kinds)
    made_up.workspace.cancel(run_id)
    client = client_of(kinds=KINDS)
    page = client.get(f"/runs/{run_id}").text
    assert f'action="/runs/{run_id}/resume"' in page
    assert f'action="/runs/{run_id}/again"' in page
    assert "No scheduler lives: what Resume and Run again puts into the queue waits there" in page
    token = form_token(client)
    assert client.post(f"/runs/{run_id}/resume", data={"form_token": "guess"}).status_code == 403
    answer = client.post(f"/runs/{run_id}/resume", data={"form_token": token})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run_id}")
    page = client.get(f"/runs/{run_id}").text
    assert "It waits for a server: `illume serve --scheduler`" in page
    assert f'action="/runs/{run_id}/resume"' not in page
    again = client.post(f"/runs/{run_id}/resume", data={"form_token": token})
    assert again.status_code == 409
    assert "Somebody was faster" in again.text
    made_up.workspace.cancel(run_id)
    new = client.post(f"/api/v1/runs/{run_id}/again", json={"reason": "new data"}).json()
    assert new["link"] != f"/runs/{run_id}"
    assert client.get(new["link"]).status_code == 200
    assert client.post(f"/api/v1/runs/{run_id}/again", json={}).json()["error"] == "Somebody was faster"
    assert client.post("/api/v1/runs/r9/resume", json={}).status_code == 404


def test_what_cannot_go_on_is_told(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    answer = client.post("/api/v1/runs/r1/resume", json={})
    assert (answer.status_code, answer.json()["error"]) == (409, "This cannot be done any more")
    assert "is at work" in answer.json()["message"]
    made_up.end("r1")
    assert "has succeeded" in client.post("/api/v1/runs/r1/resume", json={}).json()["message"]


def test_of_two_who_approve_one_is_on_record(words: Settings, made_up: MadeUp) -> None:
    run_id = submitted_run(made_up.workspace.root, words.kinds, approval=True)
    told = press_together(words, "approve", {"run": run_id, "stage": "loud"}, {"reason": "looks right"})
    assert sum(text == f"{run_id}:loud: approved" for text in told) == 1, told
    assert sum("has approved it already" in text for text in told) == 1, told
    found = newest_of(made_up.workspace.database, Approval, f"{run_id}:loud")
    assert found is not None
    assert (found[0], found[1].note) == (1, "looks right")
    assert found[1].by.token_name in ("alice", "bob")


def test_a_stage_that_waits_for_a_person_is_approved_on_the_page_of_its_run(
    client_of: ClientOf, words: Settings, made_up: MadeUp
) -> None:
    run_id = submitted_run(made_up.workspace.root, words.kinds, approval=True)
    lease = made_up.workspace.leases.acquire(f"run:{run_id}")
    assert lease is not None
    epoch = made_up.workspace.runs.begin_epoch(run_id, lease)
    waits: dict[str, JSON] = {"for": f"{A_PERSON}: `illume approve {run_id}:loud`"}
    made_up.workspace.runs.record(run_id, "waiting", waits, epoch=epoch, stage_id="loud")
    client = client_of(kinds=KINDS)
    page = client.get(f"/runs/{run_id}").text
    assert "Waiting for the word of a person: loud" in page
    assert f'action="/runs/{run_id}/stages/loud/approve"' in page
    empty = client.post(f"/runs/{run_id}/stages/loud/approve", data={"form_token": form_token(client), "reason": " "})
    assert empty.status_code == 409
    assert "expected what was looked at" in empty.text
    fields = {"form_token": form_token(client), "reason": "curves look right"}
    assert client.post(f"/runs/{run_id}/stages/loud/approve", data=fields).status_code == 303


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
