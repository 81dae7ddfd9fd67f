"""Manifests and file lists to JSON and back. Reading validates everything, as the bytes may be damaged."""

import math
from collections.abc import Iterable, Sequence
from typing import NoReturn

from orchestrator.artifact import JSON, MANIFEST_FORMAT, FileEntry, Fingerprint, Manifest
from orchestrator.errors import CorruptArtifactError, StoreError
from orchestrator.store.layout import is_fingerprint
from orchestrator.store.objects import check_key
from orchestrator.store.store import parse_record, record_bytes


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
            "stats": metrics,
            "shards": list(manifest.shards),
            "inputs": inputs,
            "provenance": manifest.provenance,
        }
    )


def manifest_from_bytes(data: bytes, where: str) -> Manifest:
    """The manifest in `data`.

    Raises:
        CorruptArtifactError: not a manifest of a known format; the message starts with `where`.
    """
    record = parse_record(data, where)
    if record.get("format") != MANIFEST_FORMAT:
        _refuse(where, "format", record.get("format"), str(MANIFEST_FORMAT))
    fingerprint = _text(record, "fingerprint", where)
    if not is_fingerprint(fingerprint):
        _refuse(where, "fingerprint", fingerprint, "64 hexadecimal digits")
    return Manifest(
        kind=_text(record, "kind", where),
        stage_kind=_text(record, "stage_kind", where),
        fingerprint=Fingerprint(fingerprint),
        payload=_object(record, "payload", where),
        files=files_from_json(record.get("files"), where),
        metrics={name: number_from_json(value, where) for name, value in _object(record, "stats", where).items()},
        shards=_texts(record.get("shards"), "shards", where),
        inputs={slot: _texts(value, slot, where) for slot, value in _object(record, "inputs", where).items()},
        provenance=_object(record, "provenance", where),
    )


def files_to_json(files: Iterable[FileEntry]) -> list[JSON]:
    def entry_to_json(file: FileEntry) -> dict[str, JSON]:
        entry: dict[str, JSON] = {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
        return entry if file.rows is None else {**entry, "rows": file.rows}

    return [entry_to_json(file) for file in files]


def files_from_json(value: JSON, where: str) -> tuple[FileEntry, ...]:
    """The file entries of a JSON list.

    Raises:
        CorruptArtifactError: not a list of files, or a path outside the artifact's folder.
    """
    if not isinstance(value, list):
        _refuse(where, "files", value, "a list")
    files = tuple(_file(item, where) for item in value)
    if len({file.path for file in files}) != len(files):
        _refuse(where, "files", "a path twice", "each path once")
    return files


def number_to_json(value: float) -> JSON:
    """A number; a non-finite one as text ("nan", "inf", "-inf")."""
    return float(value) if math.isfinite(value) else repr(float(value))


def number_from_json(value: JSON, where: str) -> float:
    """The inverse of `number_to_json`.

    Raises:
        CorruptArtifactError: not a number.
    """
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("nan", "inf", "-inf")):
        _refuse(where, "stats", value, "numbers")
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        _refuse(where, "stats", value, "numbers")


def _file(value: JSON, where: str) -> FileEntry:
    if not isinstance(value, dict):
        _refuse(where, "files", value, "objects")
    path, size, sha256, rows = (value.get(name) for name in ("path", "bytes", "sha256", "rows"))
    if not isinstance(path, str) or type(size) is not int or size < 0 or not isinstance(sha256, str):
        _refuse(where, "files", value, "path, bytes, sha256")
    if not is_fingerprint(sha256) or not (rows is None or type(rows) is int):
        _refuse(where, f"files.{path}", value, "a SHA-256 of 64 digits, a whole number of rows")
    try:
        check_key(path)
    except StoreError as error:
        raise CorruptArtifactError(f"{where}: files: {error}") from error
    return FileEntry(path=path, bytes=size, sha256=sha256, rows=rows if type(rows) is int else None)


def _text(record: dict[str, JSON], name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        _refuse(where, name, value, "text")
    return value


def _texts(value: JSON, name: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        _refuse(where, name, value, "a list of texts")
    texts: Sequence[str] = [item for item in value if isinstance(item, str)]
    if len(texts) != len(value):
        _refuse(where, name, value, "a list of texts")
    return tuple(texts)


def _object(record: dict[str, JSON], name: str, where: str) -> dict[str, JSON]:
    value = record.get(name)
    if not isinstance(value, dict):
        _refuse(where, name, value, "an object")
    return value


def _refuse(where: str, field: str, found: object, expected: str) -> NoReturn:
    raise CorruptArtifactError(f"{where}: {field}: found {str(found)[:80]!r}, expected {expected}")
