"""Calls in parallel with a bounded number in flight, however many items there are."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

REQUESTS = 64  # in flight to a remote store
WINDOW = 4  # items taken ahead for each thread, so that a slow one does not hold up the others


def parallel_map(function: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """The results in the order of `items`, which is read as results are taken. One thread: runs in the caller's.

    Raises: the first error of `function`, in the order of `items`; later calls that have not begun are dropped.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[R]] = deque()
        try:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) >= threads * WINDOW:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def request_threads(*, is_local: bool) -> int:
    """Threads for many small requests to a store: a disk answers at once."""
    return 1 if is_local else REQUESTS
