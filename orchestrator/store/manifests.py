"""Manifests and file lists to JSON and back. Reading validates everything, as the bytes may be damaged."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from orchestrator.artifact import JSON, FileEntry, Fingerprint, Manifest
from orchestrator.constraints import SHA256_PATTERN, Constraint
from orchestrator.documents.typed_json import JSONObject, Number, parse_record
from orchestrator.errors import CorruptArtifactError
from orchestrator.store.store import record_bytes

Texts = Annotated[tuple[str, ...], Constraint(expected="a list of texts")]


@dataclass(frozen=True, kw_only=True)
class _ManifestRecord:
    """The persisted form of a `Manifest`."""

    format: Literal[1]
    kind: str
    stage_kind: str
    fingerprint: Annotated[str, Constraint(pattern=SHA256_PATTERN, expected="64 hexadecimal digits")]
    payload: JSONObject
    files: tuple[FileEntry, ...]
    metrics: dict[str, Number] | None = None
    stats: dict[str, Number] = field(default_factory=dict)  # the metrics in a manifest of before
    shards: Texts
    inputs: dict[str, Texts]
    provenance: JSONObject


def manifest_to_bytes(manifest: Manifest) -> bytes:
    """Canonical JSON. A non-finite metric is written as text, because JSON has no such numbers."""
    metrics: dict[str, JSON] = {name: number_to_json(value) for name, value in manifest.metrics.items()}
    inputs: dict[str, JSON] = {slot: list(parents) for slot, parents in manifest.inputs.items()}
    return record_bytes(
        {
            "format": manifest.format,
            "kind": manifest.kind,
            "stage_kind": manifest.stage_kind,
            "fingerprint": str(manifest.fingerprint),
            "payload": manifest.payload,
            "files": files_to_json(manifest.files),
            "metrics": metrics,
            "shards": list(manifest.shards),
            "inputs": inputs,
            "provenance": manifest.provenance,
        }
    )


def manifest_from_bytes(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; `where` names it in messages.

    Raises:
        NewerFormatError: its format is newer than this program.
        CorruptArtifactError: not a manifest.
    """
    record = parse_record(_ManifestRecord, data, where)
    check_paths(record.files, where)
    return Manifest(
        kind=record.kind,
        stage_kind=record.stage_kind,
        fingerprint=Fingerprint(record.fingerprint),
        payload=record.payload,
        files=record.files,
        metrics=record.stats if record.metrics is None else record.metrics,
        shards=record.shards,
        inputs=record.inputs,
        provenance=record.provenance,
    )


def files_to_json(files: Iterable[FileEntry]) -> list[JSON]:
    def entry_to_json(file: FileEntry) -> dict[str, JSON]:
        entry: dict[str, JSON] = {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
        return entry if file.rows is None else {**entry, "rows": file.rows}

    return [entry_to_json(file) for file in files]


def check_paths(files: Sequence[FileEntry], where: str) -> None:
    """Raises: CorruptArtifactError: two files have one path."""
    if len({file.path for file in files}) != len(files):
        raise CorruptArtifactError(f"{where}: files: found a path twice, expected each path once")


def number_to_json(value: float) -> JSON:
    """A number; a non-finite one as text ("nan", "inf", "-inf")."""
    return float(value) if math.isfinite(value) else repr(float(value))
