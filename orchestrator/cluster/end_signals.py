"""The signals that end a process: who sends them, and handling them beside Ray.

Ctrl-C comes from a person; SIGTERM from Kubernetes, Slurm or systemd; SIGHUP from a terminal that closes.

Ray takes SIGTERM over in every process that starts or joins a cluster, twice (seen in 2.60):

- In the main thread `ray.init` sets a Python handler that exits at once: `keep_handlers` puts the former one back.
- A C handler (absl's failure handler) hands the signal on to Python, but first sets an alarm that aborts the process
  3 s later, with exit code 134: `handle_end_signals` switches the alarm off.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

NAMES: Mapping[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


@contextmanager
def handle_end_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Call `handle` with the number of each Ctrl-C, SIGTERM and SIGHUP during the block. Main thread only.

    A SIGHUP that the parent ignores, as `nohup` does, stays ignored.
    """

    def handler(number: int, _frame: FrameType | None) -> None:
        signal.alarm(0)
        handle(number)

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    numbers = [number for number in NAMES if not (ignored and number == signal.SIGHUP)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


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
