"""The run history: every change of a run or an attempt, with its event, in one transaction.

Rule: each change carries the state that it expects and the epoch of its driver; a driver that was replaced gets
`LeaseLostError` and can change nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.artifact import JSON, Artifact
from orchestrator.database import Database
from orchestrator.events import AttemptState, Event, RunState
from orchestrator.leases import Lease
from orchestrator.telemetry import Telemetry


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


class RunStore:
    """Runs, attempts and their events in SQLite or PostgreSQL; an index, never the truth."""

    telemetry: Telemetry  # metrics and progress, buffered

    def __init__(self, database: Database) -> None:
        raise NotImplementedError

    def create_run(
        self,
        run_id: str,
        *,
        recipe_name: str,
        plan_digest: str,
        stages: Sequence[StageRow],
        fields: Mapping[str, JSON] | None = None,
    ) -> None:
        """State PLANNED, epoch 0. Creating the same run again (same plan digest) does nothing."""
        raise NotImplementedError

    def begin_epoch(self, run_id: str, lease: Lease) -> int:
        """Take the run over under the lease `run:<run_id>`: state RUNNING, epoch = the lease's epoch.

        A run that its last driver left RUNNING or STOPPING is first recorded as INTERRUPTED. Clears a cancel request.
        """
        raise NotImplementedError

    def transition_run(
        self,
        run_id: str,
        expected: RunState,
        new: RunState,
        *,
        epoch: int,
        fields: Mapping[str, JSON] | None = None,  # "message" is shown by status
    ) -> None:
        """Raises: LeaseLostError: the epoch is over. StateConflictError: the run is in another state."""
        raise NotImplementedError

    def start_attempt(self, intent: AttemptIntent, *, epoch: int) -> Attempt:
        """Record the intent (state INTENT) and give the attempt its number."""
        raise NotImplementedError

    def transition_attempt(
        self,
        attempt_id: str,
        expected: AttemptState,
        new: AttemptState,
        *,
        epoch: int,
        fields: Mapping[str, JSON] | None = None,  # "failure_class", "message" are shown by status
        artifact: Artifact | None = None,  # with COMMITTED: what was committed; also indexed
    ) -> None:
        """Flushes the telemetry first, so that metrics come before the end. Repeating a change does nothing."""
        raise NotImplementedError

    def record(
        self,
        run_id: str,
        kind: str,
        fields: Mapping[str, JSON],
        *,
        epoch: int,
        stage_id: str | None = None,
        attempt_id: str | None = None,
    ) -> None:
        """Any other event (`EventKind.STAGE_REUSED`, `EventKind.MODEL_VERSION`, or a word of the caller)."""
        raise NotImplementedError

    def open_attempts(self, run_id: str) -> list[Attempt]:
        """Attempts in INTENT or RUNNING: after `begin_epoch`, what the last driver left behind."""
        raise NotImplementedError

    def request_cancel(self, run_id: str) -> None:
        """Ask the run's driver to stop; anybody may. Raises: DatabaseError: no such run."""
        raise NotImplementedError

    def cancel_requested(self, run_id: str) -> bool:
        raise NotImplementedError

    def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events with a sequence number above `after`, in order."""
        raise NotImplementedError

    # run_status.py: list_runs(database, limit=50) -> list[RunSummary]; run_status(database, run_id) -> RunStatus
