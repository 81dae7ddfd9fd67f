"""Carries metrics from training workers to the stage's driver, and the stop request from the driver to the workers.

It runs as a Ray actor in a process of its own: this file imports nothing heavy, so that the process starts quickly.
"""

from dataclasses import dataclass, field

from stages.training.watching.notices import Notice


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the workers sent since the driver's previous poll."""

    steps: list[tuple[int, dict[str, float]]]  # step, metrics
    processes: dict[int, tuple[str, int]]  # rank -> node id, process id; all known so far
    error: Exception | None  # the first that a worker raised on purpose
    notices: list[Notice] = field(default_factory=list)
    newest_steps: dict[int, int] = field(default_factory=dict)  # rank -> steps done, as it reported last


class WorkerReports:
    """The mailbox between workers and driver. Losing it loses no work: checkpoints are in the store."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, dict[str, float]]] = []
        self._processes: dict[int, tuple[str, int]] = {}
        self._error: Exception | None = None
        self._notices: list[Notice] = []
        self._newest_steps: dict[int, int] = {}
        self._stop = False

    def send(self, rank: int, newest_step: int, steps: list[tuple[int, dict[str, float]]]) -> bool:
        """Called by each worker: a sign of life and, by rank 0, finished steps. Returns whether to stop."""
        self._newest_steps[rank] = newest_step
        self._steps.extend(steps)
        return self._stop

    def notify(self, notice: Notice) -> None:
        self._notices.append(notice)

    def register(self, rank: int, node_id: str, pid: int) -> None:
        self._processes[rank] = (node_id, pid)

    def fail(self, error: Exception) -> None:
        self._error = self._error or error

    def collect(self, stop: bool) -> Report:
        """Called by the driver: take what has arrived, and pass the stop request on to the workers."""
        self._stop = self._stop or stop
        steps, self._steps = self._steps, []
        notices, self._notices = self._notices, []
        return Report(
            steps=steps,
            processes=dict(self._processes),
            error=self._error,
            notices=notices,
            newest_steps=dict(self._newest_steps),
        )
