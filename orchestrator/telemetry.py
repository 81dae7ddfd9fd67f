"""Metrics and progress of attempts: buffered, and written about once a second by one thread."""

from collections.abc import Mapping

from orchestrator.artifact import JSON
from orchestrator.stage import Tracker


class Telemetry:
    """Every call returns at once. One writer thread; what the database refuses is kept and tried again."""

    def tracker(self, attempt_id: str, *, run_id: str, stage_id: str, epoch: int) -> Tracker:
        """What a stage's `run` gets as `context.tracker`."""
        raise NotImplementedError

    def log_metrics(self, attempt_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        raise NotImplementedError

    def progress(self, attempt_id: str, done: int, total: int, unit: str) -> None:
        raise NotImplementedError

    def log_event(self, attempt_id: str, kind: str, fields: Mapping[str, JSON]) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Write what is buffered now."""
        raise NotImplementedError

    def close(self) -> None:
        """Flush and end the thread."""
        raise NotImplementedError
