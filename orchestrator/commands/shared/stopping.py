"""Stops a command on Ctrl-C, SIGTERM and SIGHUP: at the next commit point, within the time that there is.

Whoever sends SIGTERM kills the process after a while: Kubernetes after `terminationGracePeriodSeconds`, 30 s unless
stated, Slurm after `KillWait`, systemd after `TimeoutStopSec`. This time is `ILLUME_STOP_GRACE_S`, else `stop_grace_s`
of the profile, else `GRACE_S`; 0 means that nobody kills. What has not reached its commit point shortly before is left,
aborted in the store so that nothing of it arrives later, and the process ends by itself. Ctrl-C sets no limit.
"""

import os
import stat
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from signal import SIGHUP, SIGINT
from types import TracebackType
from typing import NoReturn

import click

from orchestrator.cluster.end_signals import GRACE_VARIABLE, NAMES, handle_end_signals
from orchestrator.errors import EXIT_REQUEUE, OrchestratorError, RecipeError, StoppedError
from orchestrator.execution.stop_events import StopEvents

GRACE_S = 30.0
LEAVING_S, LAST_S = 6.0, 1.0  # before the kill: what is left is recorded; the process ends whatever it is doing
SHOW_CURSOR = "\x1b[?25h"


def grace_s(of_profile: float | None, environment: Mapping[str, str] = os.environ) -> float:
    """Seconds between SIGTERM and the kill; 0: no kill. Raises: RecipeError: the variable is not a number."""
    text = environment.get(GRACE_VARIABLE, "")
    if not text:
        return GRACE_S if of_profile is None else of_profile
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0.0 <= found < float("inf"):
        raise RecipeError(f"{GRACE_VARIABLE}: found {text!r}, expected seconds, e.g. 30, or 0 for no limit")
    return found


class StopSignals:
    """What signals ask of a command. Context manager, to be entered in the main thread before any work.

    Before `begin` a signal raises StoppedError in the main thread. After it, the first one sets `stop`; a second one of
    the same kind ends the process at once. Leaving the block after the time is over ends the process, as threads may
    still be at work.
    """

    def __init__(self, *, grace_s: float = GRACE_S) -> None:
        self.events = StopEvents()
        self.grace_s = grace_s
        self.leave: Callable[[], None] = lambda: None  # called in another thread when the time is over
        self._detaching: Collection[int] = ()
        self._has_begun = False
        self._seen: set[int] = set()
        self._deadline = threading.Lock()  # held once the time is counted
        self._timers: list[threading.Timer] = []
        self._stack = ExitStack()

    def __enter__(self) -> "StopSignals":
        self._stack.enter_context(handle_end_signals(self._handle, self._notice))
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stack.close()
        is_stop = isinstance(error, StoppedError)
        # Threads may be at work, or starting Ray.
        if self.events.out_of_time.is_set() or (is_stop and not self._has_begun):
            if isinstance(error, OrchestratorError):
                _say(f"error: {error}")
            exit_now()
        for timer in () if is_stop else self._timers:  # of a stop: the end of the process takes time, too
            timer.cancel()

    def begin(self, *, detaching: Collection[int] = ()) -> None:
        """From now on signals stop the work instead of interrupting it; those in `detaching` leave jobs running."""
        self._detaching = detaching
        self._has_begun = True

    def _notice(self, number: int) -> None:
        """Count the time. Called in another thread, as the main one may be busy for longer than that."""
        if number == SIGHUP:
            _leave_terminal()
        if number == SIGINT or not self.grace_s or not self._deadline.acquire(blocking=False):
            return
        leaving_s, last_s = min(LEAVING_S, self.grace_s / 2), min(LAST_S, self.grace_s / 8)
        for before_s, action in ((leaving_s, self._give_up), (last_s, exit_now)):
            timer = threading.Timer(self.grace_s - before_s, action)
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def _give_up(self) -> None:
        self.events.detached.set()  # jobs go on; what runs in this process is left
        self.events.out_of_time.set()
        self.events.stop.set()
        self.leave()

    def _handle(self, number: int) -> None:
        name = NAMES[number]
        if number == SIGHUP:
            _leave_terminal()
        if not self._has_begun:
            raise StoppedError(f"{name}: stopped before anything ran; run the same command again")
        if number in self._seen:
            exit_immediately()
        self._seen.add(number)
        if number in self._detaching:
            self.events.detached.set()
            _say(f"\n{name}: leaving the jobs running; `illume resume` follows them")
        else:
            limit = f" within {self.grace_s:g} s" if number != SIGINT and self.grace_s else ""
            _say(f"\n{name}: stopping at the next commit point{limit}; repeat to stop at once")
        self.events.stop.set()


def exit_immediately() -> NoReturn:
    """Exit without waiting for stages, sinks or Ray. As safe as being killed: a local Ray ends with its driver."""
    _say("stopped at once; committed work is kept, running again continues")
    exit_now()


def exit_now() -> NoReturn:
    """End the process with the code of a stop, whatever its threads are doing."""
    with suppress(OSError, ValueError):  # the terminal has gone
        if sys.stdout.isatty():
            click.echo(SHOW_CURSOR, nl=False)  # the live table hides it
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(EXIT_REQUEUE)


def _say(text: str) -> None:
    with suppress(OSError, ValueError):
        click.echo(text, err=True)


def _leave_terminal() -> None:
    """Write into nothing from now on where a terminal was: it has gone, and each line would raise an error."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(nothing, descriptor)
    os.close(nothing)
