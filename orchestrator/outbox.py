"""Delivery of events to sinks: at least once, in order within a run, without ever blocking work."""

from collections.abc import Sequence
from typing import Protocol

from orchestrator.database import Database
from orchestrator.events import Event


class Sink(Protocol):
    """A destination of events. `deliver` may be called again with events it has had; that must change nothing."""

    @property
    def name(self) -> str:
        """What it is and where, e.g. `mlflow http://host:5000`; the delivery cursor hangs on it."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Events of one run in order. Returns when they are safe; raises to have them again later."""


class Outbox:
    """One thread for each sink. Context manager: `with Outbox(database, sinks) as outbox: outbox.follow(run_id)`."""

    def __init__(self, database: Database, sinks: Sequence[Sink]) -> None:
        raise NotImplementedError

    def follow(self, run_id: str) -> None:
        """Deliver all events of this run to the sinks, from the first that each has not had. Starts the threads."""
        raise NotImplementedError

    def drain(self, timeout_s: float) -> dict[str, int]:
        """Deliver what is left, from all runs that these sinks follow; events not delivered in time, by sink name."""
        raise NotImplementedError

    def close(self) -> None:
        """End the threads; what was not delivered stays for the next time."""
        raise NotImplementedError


# sinks: outbox_files.JsonLinesSink(path), exporter.StoreExporter(run records), tracking.MlflowSink(uri, ...),
# lineage.OpenLineageSink(path, store_url)
