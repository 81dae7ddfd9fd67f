"""Carries metrics from training workers to the stage's driver, and the stop request from the driver to the workers.

It runs as a Ray actor in a process of its own: this file imports nothing heavy, so that the process starts quickly.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the workers sent since the driver's previous poll."""

    steps: list[tuple[int, dict[str, float]]]  # step, metrics
    processes: dict[int, tuple[str, int]]  # rank -> node id, process id; all known so far
    error: Exception | None  # the first that a worker raised on purpose


class WorkerReports:
    """The mailbox between workers and driver. Losing it loses no work: checkpoints are in the store."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, dict[str, float]]] = []
        self._processes: dict[int, tuple[str, int]] = {}
        self._error: Exception | None = None
        self._stop = False

    def send(self, steps: list[tuple[int, dict[str, float]]]) -> bool:
        """Called by rank 0: add finished steps. Returns whether the workers should stop."""
        self._steps.extend(steps)
        return self._stop

    def register(self, rank: int, node_id: str, pid: int) -> None:
        self._processes[rank] = (node_id, pid)

    def fail(self, error: Exception) -> None:
        self._error = self._error or error

    def collect(self, stop: bool) -> Report:
        """Called by the driver: take what has arrived, and pass the stop request on to the workers."""
        self._stop = self._stop or stop
        steps, self._steps = self._steps, []
        return Report(steps=steps, processes=dict(self._processes), error=self._error)
