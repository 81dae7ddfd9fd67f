"""Notices: once, with the cause and the command, and never in the way of work."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.history.changes import record_change
from orchestrator.scheduler.notices import EventWatcher, Notices, apprise_of
from orchestrator.workspace import Workspace
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as found:
        yield found


def until(is_so: "threading.Event") -> None:
    assert is_so.wait(10.0), "the notice was not delivered"


def test_a_failed_run_is_notified_once_by_two_servers(illume: Illume, tmp_path: Path, workspace: Workspace) -> None:
    fault = tmp_path / "fault"
    fault.write_text("fail")
    illume("run", "words.yaml", "--set", f"stages.loud.config.fault={fault}")
    run_id = newest(illume)["run_id"]
    record_change(workspace.store, "takedown", ["request-17"])
    sent: list[tuple[str, str]] = []
    has_both = threading.Event()

    def send(title: str, text: str) -> bool:
        sent.append((title, text))
        if len(sent) == 2:
            has_both.set()
        return True

    for _server in range(2):
        EventWatcher(notices=Notices(send=send), waits_longer_s=60.0).look(workspace, time.time())
    until(has_both)
    failed, takedown = sorted(sent)
    assert failed[0].startswith(f"illume: run {run_id} failed")
    assert "out of breath" in failed[1]
    assert failed[1].endswith(f"illume show {run_id}")
    assert takedown[1] == "illume takedown receipt request-17"


def test_a_channel_that_fails_delays_nothing(workspace: Workspace) -> None:
    tries: list[str] = []
    is_over = threading.Event()

    def send(title: str, _text: str) -> bool:
        tries.append(title)
        if len(tries) == 3:
            is_over.set()
        raise OSError("no route to host")

    notices = Notices(send=send, pause_s=0.0)
    began = time.monotonic()
    notices.notify(workspace, "budget spent: run r1", "the budget is spent")
    notices.notify(workspace, "budget spent: run r1", "the budget is spent, and more so")
    assert time.monotonic() - began < 5.0
    until(is_over)
    assert tries == ["illume: budget spent: run r1"] * 3


@contextmanager
def channel(status: int) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a channel that answers with `status`, and what it was sent."""
    said: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"json://someone:pa55word@127.0.0.1:{server.server_address[1]}/hook", said
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(("status", "arrives"), [(200, True), (500, False)])
def test_apprise_carries_a_notice_and_says_whether_it_arrived(
    status: int, arrives: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("apprise", reason="needs apprise: pip install -c constraints.txt -e '.[notify]'")
    with channel(status) as (address, said):
        file = tmp_path / "channels"
        file.write_text(f"# the team's\n\n{address}\n")
        send = apprise_of(file)
        caplog.set_level(0)
        assert send("run r1: failed", "no space left\nillume resume r1") is arrives
    assert [(body["title"], body["message"]) for body in said] == [
        ("run r1: failed", "no space left\nillume resume r1")
    ]
    assert "pa55word" not in caplog.text


@pytest.mark.parametrize(
    ("text", "message"), [("nobody knows this", r"channels:1: not an address"), ("# none\n", "found no address")]
)
def test_a_file_without_a_good_address_is_refused(text: str, message: str, tmp_path: Path) -> None:
    pytest.importorskip("apprise", reason="needs apprise: pip install -c constraints.txt -e '.[notify]'")
    (tmp_path / "channels").write_text(text)
    with pytest.raises(OrchestratorError, match=message):
        apprise_of(tmp_path / "channels")


def test_channels_need_their_package_or_an_address(tmp_path: Path) -> None:
    with pytest.raises(OrchestratorError, match=r"illume-orchestrator\[notify\]|cannot read"):
        apprise_of(tmp_path / "absent")
