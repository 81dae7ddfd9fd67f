"""The words of the run history: a stage in a run's plan, what an attempt is about to do, and the attempt."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.artifact import JSON
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
    """One input of an attempt as the tracking sinks show it: an artifact, or a source outside the store."""

    slot: str
    kind: str  # artifact kind; "source" for files outside the store
    digest: str  # fingerprint of the artifact, sha256 of the source
    name: str  # stage kind that made the artifact; stable name of the source
    bytes: int | None = None
    rows: int | None = None
    files: int | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptIntent:
    """What an attempt is about to do; written before it does anything."""

    attempt_id: str  # unique for ever; also the name of the attempt's folder
    run_id: str
    stage_id: str
    stage_kind: str
    stage_version: int
    fingerprint: str
    config: Mapping[str, JSON]
    inputs: tuple[InputSummary, ...] = ()
    fields: Mapping[str, JSON] = field(default_factory=dict)  # anything else worth knowing


@dataclass(frozen=True, kw_only=True)
class Attempt:
    attempt_id: str
    run_id: str
    stage_id: str
    number: int  # 1, 2, ... within the run and stage
    epoch: int  # of the driver that started it
    state: AttemptState
    stage_kind: str
    fingerprint: str
