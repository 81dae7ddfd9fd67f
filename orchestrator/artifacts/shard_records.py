"""The record of a finished shard: its types, and its stored form."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from orchestrator.artifact import JSON, ArtifactKey, FileEntry
from orchestrator.constraints import PART_PATTERN, Constraint
from orchestrator.documents.typed_json import JSONObject, Number, parse_record, record_from_json
from orchestrator.identity import to_json
from orchestrator.shards import FailedTry, Quarantined, ShardOutcome
from orchestrator.store.commits import Commit
from orchestrator.store.layout import shard_site
from orchestrator.store.manifests import check_paths, files_to_json, number_to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredShard:
    """A finished shard as read from its record; its files are not read."""

    key: ArtifactKey
    files: tuple[FileEntry, ...]
    outcome: ShardOutcome
    provenance: dict[str, JSON]  # e.g. the run and attempt that made it
    commit: Commit  # without `record`, which is what the other fields say

    @property
    def data_key(self) -> str:
        return shard_site(self.key).data_key(self.commit.attempt)

    def key_of(self, name: str) -> str:
        """The store key of one of the files, e.g. to link it into an artifact."""
        return f"{self.data_key}/{name}"

    def without_bytes(self) -> "StoredShard":
        """The same shard without the stored bytes of its record: thousands are held in memory."""
        return replace(self, commit=replace(self.commit, data=b""))


@dataclass(frozen=True, kw_only=True)
class _QuarantinedRecord:
    item: Any
    reason: str
    found_by: Literal["stage", "search", "unknown"] = "unknown"  # older records do not say
    tries: tuple[FailedTry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _OutcomeRecord:
    rows: int
    quarantined: tuple[_QuarantinedRecord, ...]
    metrics: dict[str, Number] | None = None
    stats: dict[str, Number] = field(default_factory=dict)  # the metrics in a record of before
    result: Any = None


@dataclass(frozen=True, kw_only=True)
class _ShardBody:
    """What the commit record of a shard has in addition to that of an artifact; the format is the same."""

    files: tuple[FileEntry, ...]
    outcome: _OutcomeRecord
    provenance: JSONObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _ShardCommit(_ShardBody):
    """The whole commit record of a shard, for reading many in one step each."""

    format: Literal[1]
    attempt: Annotated[str, Constraint(pattern=PART_PATTERN, expected="a name without '/'")]
    epoch: int
    committed_s: float = 0.0


def shard_of_commit(key: ArtifactKey, commit: Commit) -> StoredShard:
    """The shard that a commit record describes.

    Raises:
        CorruptArtifactError: the record is not that of a shard.
    """
    where = f"shard record of {key}"
    return _stored(key, record_from_json(_ShardBody, commit.record, where), replace(commit, record={}), where)


def shard_from_bytes(key: ArtifactKey, generation: int, data: bytes) -> StoredShard:
    """The shard that the bytes of a commit record describe. Raises: CorruptArtifactError, NewerFormatError."""
    where = f"shard record of {key}"
    record = parse_record(_ShardCommit, data, where)
    commit = Commit(
        generation=generation,
        attempt=record.attempt,
        epoch=record.epoch,
        committed_s=record.committed_s,
        record={},
        data=data,
    )
    return _stored(key, record, commit, where)


def _stored(key: ArtifactKey, record: _ShardBody, commit: Commit, where: str) -> StoredShard:
    check_paths(record.files, where)
    outcome = record.outcome
    return StoredShard(
        key=key,
        files=record.files,
        outcome=ShardOutcome(
            rows=outcome.rows,
            quarantined=tuple(Quarantined(**vars(entry)) for entry in outcome.quarantined),
            metrics=outcome.stats if outcome.metrics is None else outcome.metrics,
            result=outcome.result,
        ),
        provenance=record.provenance,
        commit=commit,
    )


def shard_body(files: Iterable[FileEntry], outcome: ShardOutcome, provenance: Mapping[str, JSON]) -> dict[str, JSON]:
    """The fields of a shard's commit record. Raises: TypeError, ValueError: the outcome is not plain JSON."""
    return {"files": files_to_json(files), "outcome": _outcome_to_json(outcome), "provenance": dict(provenance)}


def _outcome_to_json(outcome: ShardOutcome) -> dict[str, JSON]:
    metrics: dict[str, JSON] = {name: number_to_json(value) for name, value in outcome.metrics.items()}
    quarantined: list[JSON] = [_quarantined_to_json(entry) for entry in outcome.quarantined]
    return {"rows": outcome.rows, "quarantined": quarantined, "metrics": metrics, "result": to_json(outcome.result)}


def _quarantined_to_json(entry: Quarantined) -> dict[str, JSON]:
    found: dict[str, JSON] = {"item": to_json(entry.item), "reason": entry.reason, "found_by": entry.found_by}
    tries: list[JSON] = [dict(vars(attempt)) for attempt in entry.tries]
    return {**found, "tries": tries} if tries else found
