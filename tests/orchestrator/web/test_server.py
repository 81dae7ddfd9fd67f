import http.client
import signal
import socket
import time
from pathlib import Path

import pytest

from orchestrator.errors import RecipeError
from orchestrator.web.server import SHUTDOWN_S, listen
from tests.orchestrator.web.browser import Server
from tests.orchestrator.web.conftest import MadeUp


def test_an_address_that_is_taken_is_said() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(RecipeError, match=f"--port {port}: cannot listen there"):
            listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot listen there"):
        listen("192.0.2.1", 0)
    with listen("::1", 0) as found:
        assert found.family is socket.AF_INET6


def test_sigterm_ends_the_streams_of_open_pages_and_then_the_service(made_up: MadeUp, tmp_path: Path) -> None:
    """Otherwise it would wait for pages that nobody closes until it is killed."""
    made_up.start("r1")
    server = Server(root=made_up.workspace.root)
    server.start()
    assert server.process is not None
    streams = []
    for path in ("/events/stream", "/events/stream?run=r1"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", path)
        stream = connection.getresponse()
        assert stream.readline() == b"retry: 1000\n"
        streams.append(stream)
    server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    for stream in streams:
        stream.read()  # to its end: it was not cut
        assert stream.isclosed()
    assert server.process.wait(timeout=60) == 0
    text = (tmp_path / "serve.txt").read_text()
    assert "Traceback" not in text
    assert "Cancel" not in text, f"streams were cut after {SHUTDOWN_S} s, {time.monotonic() - began:.1f} s"
