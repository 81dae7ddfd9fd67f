"""Who acts: the user and host of this process, or the name that a service or CI gives, with command line and reason.

Rule: every event of a changed state and every record of a change in the store names its actor.
"""

import getpass
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache

ACTOR_VARIABLE = "ILLUME_ACTOR"  # environment: who acts, where the user of the process says nothing, e.g. "ci-nightly"


@dataclass(frozen=True, kw_only=True)
class Actor:
    user: str
    host: str
    token_name: str = ""  # name of the token of a service, or of `$ILLUME_ACTOR`; never the token itself
    command: tuple[str, ...] = ()  # the command line; may hold secrets until it is recorded
    reason: str = ""  # in the words of who asked

    @property
    def name(self) -> str:
        return self.token_name or f"{self.user}@{self.host}"


@dataclass(kw_only=True)
class _Process:
    """What the command line of this process says; threads that a driver starts act for the same person."""

    command: tuple[str, ...] = ()
    reason: str = ""


_process = _Process()
_acting: ContextVar[Actor | None] = ContextVar("actor", default=None)


def current_actor() -> Actor:
    """Who acts now: set by `acting_as`, else by the environment, else the user of this process."""
    acting = _acting.get()
    if acting is not None:
        return acting
    token = os.environ.get(ACTOR_VARIABLE, "").strip()
    return replace(_this_user(), token_name=token, command=_process.command, reason=_process.reason)


def set_command(command: Sequence[str]) -> None:
    """The command line that this process carries out; a reason that an earlier one gave is forgotten."""
    _process.command, _process.reason = tuple(command), ""


def set_reason(reason: str) -> None:
    _process.reason = reason.strip()


@contextmanager
def acting_as(actor: Actor) -> Iterator[None]:
    """Act for somebody else within this context, such as the owner of a token that a request came with."""
    before = _acting.set(actor)
    try:
        yield
    finally:
        _acting.reset(before)


@cache
def _this_user() -> Actor:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user id has no name
        user = f"uid-{os.getuid()}"
    return Actor(user=user, host=socket.gethostname())
