"""What ends the work of a driver from outside."""

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class StopEvents:
    """Each is set once, by another thread or by a signal handler."""

    stop: threading.Event = field(default_factory=threading.Event)  # end at the next commit point
    detached: threading.Event = field(default_factory=threading.Event)  # set before `stop`: jobs keep running
    out_of_time: threading.Event = field(default_factory=threading.Event)  # after it: leave what has not stopped yet
