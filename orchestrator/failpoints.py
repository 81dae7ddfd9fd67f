"""Failpoints: named places in the code where tests inject failures. Off unless the environment arms them.

    ILLUME_FAILPOINTS='artifact.outcome=kill; shard.commit=raise@3; outbox.delivered=delay:2.5'

Actions: `kill` (SIGKILL to this process), `freeze` (SIGSTOP, until somebody sends SIGCONT), `raise` (a store failure;
directly after a write it simulates the write's lost acknowledgement), `delay:SECONDS`, `hold:FILE` (waits until the
file exists). `@n` acts on the n-th pass of a process only; the default is the first. With
ILLUME_FAILPOINTS_ONCE=FOLDER a point acts once for all processes together: in the first one to create a marker file
there.
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
    *(f"{site}.files" for site in _SITES),  # all files of the attempt are in the store
    "artifact.manifest",
    "checkpoint.manifest",
    *(f"{site}.outcome" for site in _SITES),  # the outcome is decided, but readers do not see it yet
    *(f"{site}.commit" for site in _SITES),  # readers see it, but the caller has not returned
    *(f"{site}.retracted" for site in _SITES),
    "store.expected",  # the database knows which store it will be, and nothing is there yet
    "store.established",  # the store has its identity, which the database has not seen yet
    "run.checking",  # nothing of the run exists
    "run.created",  # it is in the database, and nobody drives it yet
    "epoch.begun",  # it has a driver, and no stage has started
    "epoch.claimed",  # in the store; the database does not know it yet
    "attempt.claimed",  # its id is used, and nothing else of it exists
    "use.recorded",  # what the attempt uses is on record, and it has not looked for it yet
    "attempt.intent",  # the attempt's row is in the database
    "attempt.running",
    "attempt.committed",
    "lease.acquired",
    "lease.renewed",
    "outbox.delivered",  # the sink has the events, its cursor has not moved
)
_ACTIONS = ("kill", "freeze", "raise", "delay", "hold")
_HOLD_POLL_S = 0.02


@dataclass
class _ArmedPoint:
    action: str
    seconds: float  # of a delay
    file: str  # that ends a hold
    passes_left: int


def parse(text: str) -> dict[str, _ArmedPoint]:
    """Raises: RecipeError for an unknown point or action."""
    armed = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        point, _, action_text = part.partition("=")
        action_text, _, count = action_text.partition("@")
        action, _, argument = action_text.partition(":")
        try:
            if point not in POINTS or action not in _ACTIONS:
                raise ValueError
            if action == "hold" and not argument:
                raise ValueError
            seconds = float(argument or 0) if action != "hold" else 0.0
            armed[point] = _ArmedPoint(action, seconds, argument, int(count or 1))
        except ValueError as error:
            raise RecipeError(
                f"{VARIABLE}: found {part!r}, expected POINT=ACTION with one of {', '.join(_ACTIONS)} and one of "
                f"{', '.join(POINTS)}"
            ) from error
    return armed


_armed: Mapping[str, _ArmedPoint] = parse(os.environ.get(VARIABLE, ""))


def hit(point: str) -> None:
    """Perform the action armed for this point, if any."""
    armed = _armed.get(point)
    if armed is None:
        return
    armed.passes_left -= 1
    if armed.passes_left == 0 and _is_first(point):
        _act(point, armed)


def _is_first(point: str) -> bool:
    """True unless another process with the same marker folder has acted at this point."""
    folder = os.environ.get(ONCE_VARIABLE)
    if not folder:
        return True
    try:
        os.close(os.open(Path(folder) / point, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _act(point: str, armed: _ArmedPoint) -> None:
    if armed.action == "delay":
        time.sleep(armed.seconds)
    elif armed.action == "hold":
        while not Path(armed.file).exists():
            time.sleep(_HOLD_POLL_S)
    elif armed.action == "raise":
        raise StoreError(f"failpoint {point}")
    else:
        os.kill(os.getpid(), signal.SIGKILL if armed.action == "kill" else signal.SIGSTOP)
