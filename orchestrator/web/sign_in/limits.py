"""Limits of rate: so many at once, and then so many for each second, for each one who asks."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_KEYS = 10_000  # the oldest are forgotten


@dataclass(kw_only=True)
class RateLimit:
    """Thread-safe. `clock`: seconds that only rise."""

    burst: int
    per_s: float
    clock: Callable[[], float] = time.monotonic
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)  # key -> (left, at)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_s(self, key: str) -> float:
        """Takes one for `key` and returns 0; or returns the seconds after which there is one again."""
        with self._lock:
            now = self.clock()
            left, at = self._left.pop(key, (float(self.burst), now))
            left = min(float(self.burst), left + (now - at) * self.per_s)
            is_granted = left >= 1
            self._left[key] = (left - 1 if is_granted else left, now)
            if len(self._left) > MAX_KEYS:
                del self._left[next(iter(self._left))]
            return 0.0 if is_granted else (1 - left) / self.per_s
