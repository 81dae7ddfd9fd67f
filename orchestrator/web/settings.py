"""What `illume serve` was started with."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.recipe.loading import Kinds
from orchestrator.workspace import Workspace

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8400


@dataclass(frozen=True, kw_only=True)
class Background:
    """Work beside the pages, in a thread of its own, such as a scheduler."""

    name: str
    run: Callable[[threading.Event], None]  # returns soon after the event is set
    problem: Callable[[], str] = lambda: ""  # what is wrong with it now, of what ending this process would cure
    note: Callable[[], str] = lambda: ""  # what else there is to say about it


@dataclass(frozen=True, kw_only=True)
class Settings:
    open: Callable[[], Workspace]  # the workspace that the pages show; called again when it could not be opened
    kinds: Kinds
    folder: Path  # of this service on this machine: its jobs and its record of denied requests
    arguments: tuple[str, ...] = ()  # `--store`, `--database` and so on, for commands that answer long questions
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token_file: Path | None = None
    trusted_proxy: str = ""  # address of the proxy that signs users in; empty: there is none
    user_header: str = "X-Forwarded-User"  # of the trusted proxy
    public_url: str = ""  # for links, and the host that requests may name
    background: tuple[Background, ...] = ()
