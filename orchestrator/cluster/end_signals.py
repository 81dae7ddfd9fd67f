"""The signals that end a process: who sends them, and handling them beside Ray.

Ctrl-C comes from a person; SIGTERM from Kubernetes, Slurm or systemd; SIGHUP from a terminal that closes.

Ray takes SIGTERM over in every process that starts or joins a cluster, twice (seen in 2.60):

- In the main thread `ray.init` sets a Python handler that exits at once: `keep_handlers` puts the former one back.
- A C handler (absl's failure handler) hands the signal on to Python, but first sets an alarm that aborts the process
  3 s later, with exit code 134: `handle_end_signals` switches the alarm off.

Python calls handlers in the main thread between two of its own instructions, which may be minutes away while that
thread copies a tensor or waits for a server. So a thread of its own switches the alarm off, and hears of each signal.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

GRACE_VARIABLE = "ILLUME_STOP_GRACE_S"  # seconds between SIGTERM and the kill, see `commands/shared/stopping.py`
NAMES: Mapping[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


@contextmanager
def handle_end_signals(
    handle: Callable[[int], None], notice: Callable[[int], None] = lambda _number: None
) -> Iterator[None]:
    """Call `handle` with the number of each Ctrl-C, SIGTERM and SIGHUP during the block. Main thread only.

    `handle` is called in the main thread and may raise there; `notice` is called in another one, without delay.
    A SIGHUP that the parent ignores, as `nohup` does, stays ignored.
    """

    def handler(number: int, _frame: FrameType | None) -> None:
        signal.alarm(0)
        handle(number)

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    numbers = [number for number in NAMES if not (ignored and number == signal.SIGHUP)]
    with _watch(frozenset(numbers), notice):
        before = {number: signal.signal(number, handler) for number in numbers}
        try:
            yield
        finally:
            for number, former in before.items():
                signal.signal(number, former)


@contextmanager
def _watch(numbers: frozenset[int], notice: Callable[[int], None]) -> Iterator[None]:
    """During the block, a thread switches the alarm off and calls `notice` as soon as one of these signals arrives."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        with os.fdopen(reader, "rb", buffering=0) as arrived:
            while byte := arrived.read(1):  # the C part of Python's handlers writes the number of each signal
                if byte[0] in numbers:
                    signal.alarm(0)
                    notice(byte[0])

    threading.Thread(target=watch, name="signals", daemon=True).start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        os.close(writer)


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Undo what the block does to the handlers of the signals that end a process, if it runs in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python's handlers cannot be changed from here, also not by the block
        return
    before = {number: signal.getsignal(number) for number in NAMES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
