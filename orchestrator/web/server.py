"""Runs the application in uvicorn until a signal ends it."""

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import uvicorn

from orchestrator.errors import RecipeError, StoppedError
from orchestrator.web.app import create_app
from orchestrator.web.settings import Settings
from orchestrator.web.sign_in.identify import check_settings

SHUTDOWN_S = 3  # streams end at once, a request that is being answered has so long
BACKLOG = 128


def serve(settings: Settings, *, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. `on_ready` is called with the address once it is listened to.

    Raises: RecipeError: the settings would let strangers in, or the address is taken.
    """
    check_settings(settings)
    listener = listen(settings.host, settings.port)
    settings = replace(settings, port=listener.getsockname()[1])
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # requests are counted; denied ones are on record
        proxy_headers=False,  # who asks is decided by `sign_in`, which knows the proxy
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    on_ready(settings.public_url or address_of(settings))
    with listener, contextlib.suppress(StoppedError):  # uvicorn raises the signal again once it has ended
        _Server(config, app.state.service.stopping).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends the streams of open pages before it waits for requests: they would last for ever."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping.set()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Raises: RecipeError: the address cannot be listened to."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of one that was killed a moment ago
        listener.bind((host.strip("[]"), port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise RecipeError(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}") from error
    return listener


def address_of(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"
