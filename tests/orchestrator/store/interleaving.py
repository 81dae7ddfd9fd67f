"""Interleavings of actors on one store: each call on the store waits for its turn, in an order drawn at random."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Scheduler:
    """Lets one actor at a time make one call on the store, in the order that hypothesis draws."""

    random: random.Random
    turns: dict[str, threading.Semaphore] = field(default_factory=dict)
    back: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    alive: set[str] = field(default_factory=set)
    errors: list[BaseException] = field(default_factory=list)

    def wait_for_turn(self, actor: str) -> None:
        self.back.release()
        self.turns[actor].acquire()

    def run(self, actors: dict[str, Callable[[], None]]) -> None:
        threads = []
        for name, body in actors.items():
            self.turns[name] = threading.Semaphore(0)
            self.alive.add(name)

            def act(name: str = name, body: Callable[[], None] = body) -> None:
                self.turns[name].acquire()
                try:
                    body()
                except BaseException as error:  # noqa: BLE001 - raised again by `run`
                    self.errors.append(error)
                finally:
                    self.alive.discard(name)
                    self.back.release()

            threads.append(threading.Thread(target=act, daemon=True))
            threads[-1].start()
        while self.alive:
            actor = self.random.choice(sorted(self.alive))
            for _ in range(self.random.choice((1, 1, 3, 10, 60))):  # the others stand still meanwhile
                if actor in self.alive:
                    self.turns[actor].release()
                    assert self.back.acquire(timeout=20), "an actor is stuck"
        for thread in threads:
            thread.join()
        for error in self.errors:
            raise error


class Crash(BaseException):
    """The simulated end of a process."""


@dataclass
class SteppedStore:
    """The store as one actor sees it: every call waits for its turn; the actor dies at its `dies_at`-th call."""

    inner: Any
    scheduler: Scheduler
    actor: str
    dies_at: int = 10**9
    is_local: bool = False
    calls: int = 0

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.inner, name)
        if not callable(operation) or name == "local":
            return operation

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls += 1
            if self.calls > self.dies_at:
                raise Crash
            self.scheduler.wait_for_turn(self.actor)
            found = operation(*arguments, **keywords)
            return list(found) if name == "list" else found

        return call
