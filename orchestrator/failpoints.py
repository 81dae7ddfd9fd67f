"""Named places in the code where a test can break the world. Off unless the environment arms them.

    ILLUME_FAILPOINTS='artifact.outcome=kill; shard.commit=raise@3; outbox.delivered=delay:2.5'

Actions: `kill` (SIGKILL to this process), `freeze` (SIGSTOP, until somebody sends SIGCONT), `raise` (a store failure;
right behind a write, this is its lost acknowledgement), `delay:SECONDS`. `@n` acts on the n-th pass of a process,
the first if nothing is said, and only then. With ILLUME_FAILPOINTS_ONCE=FOLDER a point acts once for all processes
together: the first to make a marker file there.
"""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import RecipeError, StoreError

VARIABLE, ONCE_VARIABLE = "ILLUME_FAILPOINTS", "ILLUME_FAILPOINTS_ONCE"
_SITES = ("artifact", "checkpoint", "shard")
POINTS = (
    *(f"{site}.files" for site in _SITES),  # everything that the attempt wrote is in the store
    "artifact.manifest",
    "checkpoint.manifest",
    *(f"{site}.outcome" for site in _SITES),  # decided, but not yet what readers follow
    *(f"{site}.commit" for site in _SITES),  # readers follow it, but nobody was told
    *(f"{site}.retracted" for site in _SITES),
    "attempt.intent",  # the attempt's row is in the database
    "attempt.running",
    "attempt.committed",
    "lease.acquired",
    "lease.renewed",
    "outbox.delivered",  # the sink has the events, its cursor has not moved
)
_ACTIONS = ("kill", "freeze", "raise", "delay")


@dataclass
class _Armed:
    action: str
    seconds: float
    passes_left: int


def parse(text: str) -> dict[str, _Armed]:
    """Raises: RecipeError for an unknown point or action."""
    armed = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        point, _, what = part.partition("=")
        what, _, count = what.partition("@")
        action, _, seconds = what.partition(":")
        try:
            if point not in POINTS or action not in _ACTIONS:
                raise ValueError
            armed[point] = _Armed(action, float(seconds or 0), int(count or 1))
        except ValueError as error:
            raise RecipeError(
                f"{VARIABLE}: found {part!r}, expected POINT=ACTION with one of {', '.join(_ACTIONS)} and one of "
                f"{', '.join(POINTS)}"
            ) from error
    return armed


_armed: Mapping[str, _Armed] = parse(os.environ.get(VARIABLE, ""))


def hit(point: str) -> None:
    """Do what was armed for this point; nothing if it was not."""
    armed = _armed.get(point)
    if armed is None:
        return
    armed.passes_left -= 1
    if armed.passes_left == 0 and _is_first(point):
        _act(point, armed)


def _is_first(point: str) -> bool:
    """True for one process only, if the processes share a folder of markers."""
    folder = os.environ.get(ONCE_VARIABLE)
    if not folder:
        return True
    try:
        os.close(os.open(Path(folder) / point, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _act(point: str, armed: _Armed) -> None:
    if armed.action == "delay":
        time.sleep(armed.seconds)
    elif armed.action == "raise":
        raise StoreError(f"failpoint {point}")
    else:
        os.kill(os.getpid(), signal.SIGKILL if armed.action == "kill" else signal.SIGSTOP)
