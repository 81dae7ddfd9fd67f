"""The outputs of a run: for each stage of its plan the artifact that it made or reused, its attempts and their time.

Rule: an artifact may since have been made again under the same identity; the one that this run had is reported.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select

from orchestrator.artifact import JSON, ArtifactKey, Manifest
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.takedowns import Takedown, read_takedowns, taken_down_text
from orchestrator.errors import CorruptArtifactError
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, events
from orchestrator.history.events import AttemptState, EventKind
from orchestrator.history.run_status import RunSummary
from orchestrator.store.copies.local_copy import readable_folder
from orchestrator.store.layout import artifact_site
from orchestrator.store.manifests import manifest_from_bytes

S_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """A committed artifact and the attempt that made it, in this or another run."""

    manifest: Manifest
    attempt_id: str


@dataclass(frozen=True, kw_only=True)
class StageOutput:
    """One stage of a run."""

    id: str
    planned: Mapping[str, Any]  # the stage in the stored plan
    output: Output | None  # None: it was never made, or is no longer in the store
    attempts: int  # of this run
    seconds: float | None  # duration of the attempt that made the output, in this or an earlier run
    spent_s: float  # by all attempts of this run
    made_here: bool
    taken_down: str = ""  # by which takedown it was removed, then without an output, or marked

    @property
    def fingerprint(self) -> str:
        return str(self.planned["fingerprint"])

    @property
    def upstream(self) -> list[str]:
        return [stage_id for ids in self.planned["inputs"].values() for stage_id in ids]

    @property
    def gpu_hours(self) -> float:
        """Requested GPUs times the duration of all attempts of this run; time in a queue is not included."""
        resources = self.planned["resources"]
        return float(resources["gpus"]) * int(resources["workers"]) * self.spent_s / S_PER_HOUR


@dataclass(frozen=True, kw_only=True)
class RunOutputs:
    run: RunSummary
    stages: Mapping[str, StageOutput]  # upstream first


def run_outputs(
    artifacts: ArtifactStore, database: Database, run: RunSummary, planned: Sequence[Mapping[str, Any]]
) -> RunOutputs:
    """The outputs of all stages of a run. `planned`: the stages of its stored plan."""
    takedowns = read_takedowns(artifacts.store)
    made = (_stage(artifacts, database, run, stage) for stage in planned)
    found = {stage.id: _without_taken_down(stage, takedowns) for stage in made}
    return RunOutputs(run=run, stages=found)


def _without_taken_down(stage: StageOutput, takedowns: Sequence[Takedown]) -> StageOutput:
    """The stage without an output that a takedown removed, also while its files are still there."""
    text = taken_down_text(takedowns, stage.fingerprint)
    if not text:
        return stage
    is_removed = any(takedown.removes(stage.fingerprint) for takedown in takedowns)
    return replace(stage, taken_down=text, output=None if is_removed else stage.output)


def open_output(artifacts: ArtifactStore, output: Output, wanted: Callable[[str], bool]) -> Path:
    """A local folder with the wanted files of an output; from a remote store only these are downloaded.

    Raises: CorruptArtifactError: a file is missing or damaged.
    """
    manifest = output.manifest
    site = artifact_site(manifest.key)
    files = [entry for entry in manifest.files if wanted(entry.path)]
    return readable_folder(artifacts.store, artifacts.cache, site.data_key(output.attempt_id), files)


def _stage(artifacts: ArtifactStore, database: Database, run: RunSummary, planned: Mapping[str, Any]) -> StageOutput:
    stage_id, fingerprint = str(planned["id"]), str(planned["fingerprint"])
    own = _attempts(database, (attempts.c.run_id == run.run_id) & (attempts.c.stage_id == stage_id))
    committed = [row for row in own if row.state == AttemptState.COMMITTED and row.fingerprint == fingerprint]
    earlier = (attempts.c.fingerprint == fingerprint) & (attempts.c.state == AttemptState.COMMITTED)
    until = (
        run.created_at if planned["action"] == "reuse" else run.updated_at
    )  # else: another run made it in the meantime
    made_by = committed or _attempts(database, earlier & (attempts.c.ended_at <= until))
    output = _output(
        artifacts, database, ArtifactKey(str(planned["kind"]), fingerprint), made_by[-1] if made_by else None
    )
    recorded = output.manifest.provenance.get("seconds") if output else None
    return StageOutput(
        id=stage_id,
        planned=planned,
        output=output,
        attempts=len(own),
        seconds=_seconds(made_by[-1]) if made_by else _as_float(recorded),
        spent_s=sum(_seconds(row) for row in own),
        made_here=bool(committed),
    )


def _attempts(database: Database, condition: Any) -> list[Row[Any]]:
    """Oldest first."""
    query = select(attempts).where(condition).order_by(attempts.c.ended_at, attempts.c.number)
    return database.read(lambda connection: list(connection.execute(query)))


def _seconds(attempt: Row[Any]) -> float:
    started = attempt.started_at or attempt.created_at
    return max(0.0, float((attempt.ended_at or started) - started))


def _as_float(value: JSON) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _output(artifacts: ArtifactStore, database: Database, key: ArtifactKey, attempt: Row[Any] | None) -> Output | None:
    """What the attempt committed; if its manifest is gone, what the store has now if that has the same digest."""
    committed_sha256 = None
    if attempt is not None:
        committed_sha256 = _manifest_sha256(database, attempt)
        manifest_key = artifact_site(key).manifest_key(attempt.attempt_id)
        data = artifacts.store.get(manifest_key)
        if data is not None and hashlib.sha256(data).hexdigest() == committed_sha256:
            manifest = manifest_from_bytes(data, f"{artifacts.store.url}: {manifest_key}")
            return Output(manifest=manifest, attempt_id=attempt.attempt_id)
    try:
        stored = artifacts.stored(key)
    except CorruptArtifactError:
        return None
    if stored is None or committed_sha256 not in (None, stored.manifest_sha256):
        return None
    return Output(manifest=stored.manifest, attempt_id=stored.commit.attempt)


def _manifest_sha256(database: Database, attempt: Row[Any]) -> str | None:
    """The digest of the manifest that the attempt's commit recorded, which may be another attempt's."""
    of_attempt = (events.c.run_id == attempt.run_id) & (events.c.attempt_id == attempt.attempt_id)
    transitions = of_attempt & (events.c.kind == EventKind.ATTEMPT_STATE)
    query = select(events.c.fields).where(transitions).order_by(events.c.sequence.desc()).limit(1)

    def work(connection: Connection) -> str | None:
        return connection.execute(query).scalar_one_or_none()

    fields = json.loads(database.read(work) or "{}")
    artifact = fields.get("artifact")
    return str(artifact["manifest_sha256"]) if isinstance(artifact, dict) else None
