"""The types of the run history: a stage in a run's plan, the intent of an attempt, and the attempt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.artifact import JSON, ArtifactKey
from orchestrator.attempt_id import AttemptId
from orchestrator.history.events import AttemptState


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage of a run's plan."""

    stage_id: str
    stage_kind: str
    fingerprint: str
    action: str  # "run", "reuse" or "skip"
    reasons: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()  # ids of stages


@dataclass(frozen=True, kw_only=True)
class InputSummary:
    """One input of an attempt for the tracking sinks: an artifact, or source files outside the store."""

    slot: str
    kind: str  # artifact kind; "source" for files outside the store
    digest: str  # fingerprint of the artifact, SHA-256 of the source
    name: str  # stage kind that made the artifact; stable name of the source
    bytes: int | None = None
    rows: int | None = None
    files: int | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptIntent:
    """What an attempt is about to do; recorded before the attempt does anything."""

    attempt: AttemptId
    key: ArtifactKey  # of the artifact to make
    stage_version: int
    config: Mapping[str, JSON]
    inputs: tuple[InputSummary, ...] = ()
    fields: Mapping[str, JSON] = field(default_factory=dict)  # further fields of the event


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attempt as recorded in the database."""

    id: AttemptId
    number: int  # 1, 2, ... within the run and stage
    state: AttemptState
    key: ArtifactKey  # of the artifact to make

    @property
    def is_open(self) -> bool:
        return self.state in (AttemptState.INTENT, AttemptState.RUNNING)


def attempt_from_row(row: Any) -> Attempt:
    """The attempt of a row of the table `attempts`."""
    return Attempt(
        id=AttemptId(run_id=row.run_id, stage_id=row.stage_id, epoch=row.epoch, name=row.attempt_id),
        number=row.number,
        state=AttemptState(row.state),
        key=ArtifactKey(row.stage_kind, row.fingerprint),
    )
