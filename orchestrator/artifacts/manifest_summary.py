"""What events say of committed artifacts, made from nothing but their manifests."""

from collections.abc import Iterable

from orchestrator.artifact import JSON, FileEntry, Manifest


def artifact_fields(manifest: Manifest, manifest_sha256: str) -> dict[str, JSON]:
    """What the event of a commit says about the artifact."""
    inputs: JSON = {slot: list(parents) for slot, parents in manifest.inputs.items()}
    stats: JSON = dict(manifest.stats)
    return {
        "kind": manifest.kind,
        "stage_kind": manifest.stage_kind,
        "fingerprint": str(manifest.fingerprint),
        "manifest_sha256": manifest_sha256,
        "files": len(manifest.files),
        "bytes": sum(entry.bytes for entry in manifest.files),
        "rows": counted_rows(manifest.files),
        "stats": stats,
        "inputs": inputs,
    }


def counted_rows(files: Iterable[FileEntry]) -> int | None:
    """Rows of all files that count them; None if none does."""
    rows = [entry.rows for entry in files if entry.rows is not None]
    return sum(rows) if rows else None
