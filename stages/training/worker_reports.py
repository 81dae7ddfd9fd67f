"""Carries metrics from training workers to the stage's driver, and the stop request the other way.

An actor of its own process: this file imports nothing heavy, so that the process starts in no time.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mail:
    steps: list[tuple[int, dict[str, float]]]  # since the last look
    processes: dict[int, tuple[str, int]]  # rank -> node id, process id
    error: Exception | None  # that a worker raised on purpose


class Mailbox:
    """Holds nothing that may not be lost."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, dict[str, float]]] = []
        self._processes: dict[int, tuple[str, int]] = {}
        self._error: Exception | None = None
        self._stop = False

    def send(self, steps: list[tuple[int, dict[str, float]]]) -> bool:
        """From the first worker: what happened since the last time. Gives whether to stop."""
        self._steps.extend(steps)
        return self._stop

    def register(self, rank: int, node_id: str, pid: int) -> None:
        self._processes[rank] = (node_id, pid)

    def fail(self, error: Exception) -> None:
        self._error = self._error or error

    def collect(self, stop: bool) -> Mail:
        """From the driver: take what has come in."""
        self._stop = self._stop or stop
        steps, self._steps = self._steps, []
        return Mail(steps=steps, processes=dict(self._processes), error=self._error)
