import socket

import pytest

from orchestrator.errors import RecipeError
from orchestrator.web.server import listen


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
