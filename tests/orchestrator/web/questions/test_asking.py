import os
import signal
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from orchestrator.web.page import BadRequestError
from orchestrator.web.questions.asking import FOLDER, ask
from orchestrator.web.questions.kinds import arguments_of
from orchestrator.web.questions.records import LOCK, OUT, read_question
from tests.orchestrator.web.conftest import ClientOf, MadeUp

PATIENCE_S = 120.0  # of a machine that is busy; it takes two seconds


def wait_for_end(folder: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = read_question(folder)
        assert found is not None
        if found.state != "running":
            return found.state
        time.sleep(0.05)
    raise AssertionError("the question was not answered")


def test_a_question_is_answered_by_a_process_whose_answer_stays(
    client_of: ClientOf, made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ILLUME_HOME", str(made_up.workspace.root))
    client = client_of()
    client.get("/questions")
    form = {"form_token": client.cookies["illume_form"], "kind": "verify", "quick": "yes"}
    answer = client.post("/questions", data=form)
    assert answer.status_code == 303, answer.text
    address = answer.headers["location"]
    folder = made_up.workspace.root / "web" / FOLDER / address.rpartition("/")[2]
    assert wait_for_end(folder) == "answered", (folder / "progress.txt").read_text()
    other = client_of()  # another server, or this one after `kill -9`
    found = other.get(f"/api/v1{address}").json()
    assert found["row"]["state"] == "answered"
    assert found["command"] == "illume verify --quick"
    assert "0 artifacts" in found["answer"] or found["answer"]
    assert other.get(f"{address}/answer").headers["content-disposition"].startswith("attachment")
    assert "verify --quick" in other.get("/questions").text
    failing = other.post("/api/v1/questions", json={"kind": "trace", "what": "abc", "run": "r9"}).json()
    assert wait_for_end(folder.parent / failing["id"]) == "failed"
    assert "found no run" in other.get(failing["link"]).text


def test_the_same_question_is_not_asked_twice_at_once_and_a_killed_one_is_told(tmp_path: Path) -> None:
    blocker = tmp_path / "blocker.py"  # a store that never answers would do
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    blocker.write_text("KINDS = open(r'%s').read()\n" % fifo)  # noqa: UP031 - a path with braces
    arguments = ["kinds", "--plugin", f"{blocker}:KINDS"]
    first, is_new = ask(tmp_path, "verify", arguments, [], asked_by="alice")
    again, is_new_again = ask(tmp_path, "verify", arguments, [], asked_by="bob")
    assert (is_new, again, is_new_again) == (True, first, False)
    folder = tmp_path / FOLDER / first
    (process,) = _holders(folder / LOCK)
    os.killpg(process, signal.SIGKILL)
    assert wait_for_end(folder) == "killed"
    assert (folder / OUT).exists()


def _holders(lock: Path) -> list[int]:
    """The processes that have the file open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.resolve() == lock for link in (folder / "fd").iterdir()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("delete", {}, "found 'delete'"),
        ("plan", {}, "recipe is missing"),
        ("plan", {"recipe": "/etc/passwd"}, "found '/etc/passwd'"),
        ("compare", {"run": "--page=x", "other": "r1"}, "no '-' at its start"),
        ("trace", {"what": "/etc/passwd"}, "no file"),
        ("trace", {"what": "x" * 300}, "at most 200"),
        ("verify", {"heal": "yes"}, "found the field 'heal'"),
    ],
)
def test_what_cannot_be_asked(kind: str, fields: dict[str, str], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        arguments_of(kind, fields)


def test_a_question_is_a_command_line() -> None:
    assert arguments_of("plan", {"recipe": "quickstart"}) == ["plan", "quickstart"]
    assert arguments_of("trace", {"what": "abc", "run": ""}) == ["trace", "abc"]
    assert arguments_of("verify", {"target": "r1:raw", "quick": ""}) == ["verify", "r1:raw"]


def test_a_question_that_there_is_not(client: TestClient) -> None:
    assert client.get("/questions/20260101-000000-abcd").status_code == 404
    assert client.get("/questions/..%2F..").status_code == 404
    assert client.get("/questions/nothing/stream").status_code == 404
