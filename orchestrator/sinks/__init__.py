"""Sinks of events: outbox, MLflow, OpenLineage, files."""
