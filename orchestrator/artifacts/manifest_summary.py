"""Summaries of committed artifacts for events, made from the manifests alone."""

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.artifact import JSON, FileEntry, Manifest


def artifact_fields(manifest: Manifest, manifest_sha256: str) -> dict[str, JSON]:
    """The artifact as described in the event of its commit."""
    inputs: JSON = {slot: list(parents) for slot, parents in manifest.inputs.items()}
    metrics: JSON = dict(manifest.metrics)
    return {
        "kind": manifest.kind,
        "stage_kind": manifest.stage_kind,
        "fingerprint": str(manifest.fingerprint),
        "manifest_sha256": manifest_sha256,
        "files": len(manifest.files),
        "bytes": sum(entry.bytes for entry in manifest.files),
        "rows": counted_rows(manifest.files),
        "metrics": metrics,
        "inputs": inputs,
    }


def recorded_metrics(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics in the description of an artifact; in events of before they are called `stats`."""
    found = artifact.get("metrics", artifact.get("stats"))
    return found if isinstance(found, dict) else {}


def counted_rows(files: Iterable[FileEntry]) -> int | None:
    """Total rows of the files whose rows are counted; None if none is."""
    rows = [entry.rows for entry in files if entry.rows is not None]
    return sum(rows) if rows else None
