"""Checks of what the code of a stage does with its context and returns. A mistake is a message, not a traceback."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifact import JSON, Artifact
from orchestrator.errors import StageCodeError
from orchestrator.identity import to_json
from orchestrator.stage import Slot, Tracker

NO_SLOTS: Mapping[str, Slot] = {}


def checked_metrics(where: str, found: object) -> dict[str, float]:
    """The metrics as plain numbers. Raises: StageCodeError: not a mapping from names to numbers."""
    if not isinstance(found, Mapping):
        raise StageCodeError(
            f"{where}: found {type(found).__name__}, expected a mapping from names of metrics to numbers, or `{{}}`"
        )
    return {_name(where, name): _number(f"{where}: {name}", value) for name, value in found.items()}


def _name(where: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise StageCodeError(f"{where}: found {name!r} as the name of a metric, expected text")
    return name


def _number(where: str, value: object) -> float:
    if not isinstance(value, str | bytes | bytearray):
        try:
            return float(value)  # type: ignore[arg-type]  # numbers of libraries, such as a tensor with one element
        except (TypeError, ValueError, OverflowError):
            pass
    raise StageCodeError(f"{where}: found {str(value)[:80]!r} of type {type(value).__name__}, expected a number")


@dataclass(frozen=True, kw_only=True)
class CheckedTracker:
    """`stage.Tracker` that refuses what cannot be recorded where it is passed, and hands on the rest."""

    tracker: Tracker
    stage_id: str

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        where = f"{self.stage_id}: tracker.log_metrics"
        self.tracker.log_metrics(checked_metrics(where, metrics), step=int(_number(f"{where}: step", step)))

    def progress(self, done: int, total: int, unit: str) -> None:
        where = f"{self.stage_id}: tracker.progress"
        self.tracker.progress(int(_number(f"{where}: done", done)), int(_number(f"{where}: total", total)), str(unit))

    def log_event(self, kind: str, fields: Mapping[str, JSON]) -> None:
        try:
            plain = to_json(fields)
        except (TypeError, ValueError) as error:
            raise StageCodeError(f"{self.stage_id}: tracker.log_event: {kind}: {error}; pass plain JSON") from error
        self.tracker.log_event(kind, plain if isinstance(plain, dict) else {})


def check_inputs_untouched(
    stage_id: str, inputs: Mapping[str, Sequence[Artifact]], slots: Mapping[str, Slot] = NO_SLOTS
) -> None:
    """Check that the stage wrote nothing into what it read. Files that a slot streams need not be there.

    Raises: StageCodeError: a file of an input was added, removed, or has another length.
    """
    for slot, artifacts in inputs.items():
        for artifact in artifacts:
            expected = {entry.path: entry.bytes for entry in artifact.manifest.files}
            found = _lengths(artifact.path)
            streamed = slots[slot].streamed if slot in slots else None
            if streamed is not None:
                expected = {name: size for name, size in expected.items() if name in found or not streamed(name)}
            changed = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            if changed:
                raise StageCodeError(
                    f"{stage_id}: the stage has changed its input {slot!r}: {artifact.path / changed[0]}; write only "
                    "below `context.output`, and repair the input with `illume verify --heal`"
                )


def _lengths(folder: Path) -> dict[str, int]:
    found = {}
    for parent, _, files in os.walk(folder):
        for name in files:
            path = Path(parent, name)
            found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return found
