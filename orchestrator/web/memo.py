"""A value that takes long to find and may be a little old."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(kw_only=True)
class Memo(Generic[T]):
    """Keeps what was found for `keep_s`. One thread looks; the others wait for it. `clock`: seconds that only rise."""

    keep_s: float
    clock: Callable[[], float] = time.monotonic
    _found: list[tuple[float, T]] = field(default_factory=list)  # empty, or one: when, what
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, find: Callable[[], T]) -> T:
        """Raises: whatever `find` raises; then nothing is kept."""
        with self._lock:
            if not self._found or self.clock() - self._found[0][0] >= self.keep_s:
                self._found = [(self.clock(), find())]
            return self._found[0][1]

    def forget(self) -> None:
        """Look again when it is asked for next."""
        with self._lock:
            self._found = []
