"""Write-once records of finished shards, found by fingerprint across runs and recipes.

A record whose files are missing or have another length counts as absent; the next one opens a new generation.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator import failpoints
from orchestrator.artifact import JSON, ArtifactKey, FileEntry
from orchestrator.documents.typed_json import JSONObject, Number, record_from_json
from orchestrator.errors import CorruptArtifactError
from orchestrator.shards import FailedTry, Quarantined, ShardOutcome, ShardRecord
from orchestrator.store.attempt_folder import AttemptFolder, new_folder
from orchestrator.store.commits import (
    Commit,
    Head,
    abort,
    commit_attempt,
    delete_attempt,
    head,
    read_outcome,
    retract,
    roll_forward,
)
from orchestrator.store.layout import SHARDS, new_attempt_id, shard_site, stored_keys
from orchestrator.store.manifests import check_paths, files_to_json, number_to_json
from orchestrator.store.store import Store
from orchestrator.store.store_identity import check_folders
from orchestrator.store.verification import Problem, differences, move_to_cache, readable_folder

log = logging.getLogger(__name__)

PARALLEL_FINDS = 16  # requests in flight to a remote store


@dataclass(frozen=True, kw_only=True)
class StoredShard:
    """A finished shard as read from its record; its files are not read."""

    key: ArtifactKey
    files: tuple[FileEntry, ...]
    outcome: ShardOutcome
    provenance: dict[str, JSON]  # e.g. the run and attempt that made it
    commit: Commit

    @property
    def data_key(self) -> str:
        return shard_site(self.key).data_key(self.commit.attempt)

    def key_of(self, name: str) -> str:
        """The store key of one of the files, e.g. to link it into an artifact."""
        return f"{self.data_key}/{name}"


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


@dataclass(frozen=True)
class ShardLedger:
    """The shard records of one store. Can be pickled, so that workers record their own finished shards."""

    store: Store
    cache: Path

    def find(self, key: ArtifactKey) -> StoredShard | None:
        """The finished shard if its files all exist with the recorded lengths; otherwise None."""
        found = roll_forward(self.store, shard_site(key))
        if found.problem:
            log.warning("treated as absent, will be made again: %s", found.problem)
        if not found.commit:
            return None
        try:
            stored = _stored(key, found.commit)
        except CorruptArtifactError as error:
            log.warning("treated as absent, will be made again: %s", error)
            return None
        for problem in self._problems(stored, rehash=False):
            log.warning("treated as absent, will be made again: %s", problem)
            return None
        return stored

    def find_many(self, stage_kind: str, fingerprints: Iterable[str]) -> dict[str, StoredShard]:
        """The finished ones of these shards, by fingerprint."""
        wanted = list(dict.fromkeys(fingerprints))
        with ThreadPoolExecutor(1 if self.store.is_local else PARALLEL_FINDS) as threads:
            found = threads.map(lambda fingerprint: self.find(ArtifactKey(stage_kind, fingerprint)), wanted)
            return {stored.key.fingerprint: stored for stored in found if stored}

    def new_output(self, key: ArtifactKey, *, owner: str) -> AttemptFolder:
        """An empty folder for a worker to write the shard's files into. `owner` is the id of the stage attempt."""
        return new_folder(
            self.store,
            self.cache,
            site=shard_site(key),
            key=key,
            attempt=new_attempt_id(owner),
        )

    def record(
        self, output: AttemptFolder, outcome: ShardOutcome, *, provenance: Mapping[str, JSON], epoch: int = 0
    ) -> StoredShard:
        """Record the files in `output` as the shard, or return the record of whoever was first. May be repeated.

        Raises:
            StoreError: the store failed, or the garbage collector aborted the output.
        """
        site, own = output.site, output.attempt_id
        found = self._open_head(output.key)
        decided = read_outcome(self.store, site, own)
        if found.commit and decided is None:
            abort(self.store, site, own, reason=f"output {found.commit.attempt} was recorded first")
            winner = found.commit
        else:
            body = {} if decided else _body(output.publish(), outcome, provenance)
            failpoints.hit("shard.files")
            winner = commit_attempt(self.store, site, generation=found.generation, attempt=own, epoch=epoch, body=body)
        if winner.attempt == own:
            self._keep_local(output)
        else:
            delete_attempt(self.store, site, own)
            output.remove()
        return _stored(output.key, winner)

    def abort(self, output: AttemptFolder, *, reason: str) -> None:
        """Abort an output and delete its files, e.g. because the worker failed."""
        if abort(self.store, output.site, output.attempt_id, reason=reason):
            delete_attempt(self.store, output.site, output.attempt_id)
            output.remove()

    def fetch(self, stored: StoredShard) -> Path:
        """A local folder with the shard's files; from a remote store they are downloaded once and verified.

        Raises:
            CorruptArtifactError: the files are damaged.
        """
        return readable_folder(self.store, self.cache, stored.data_key, stored.files)

    def to_record(self, stored: StoredShard, *, shard: str, reused: bool) -> ShardRecord:
        """The shard as a stage sees it, with its files fetched."""
        return ShardRecord(
            shard=shard,
            fingerprint=stored.key.fingerprint,
            path=self.fetch(stored),
            files=stored.files,
            outcome=stored.outcome,
            reused=reused,
        )

    def verify(self, key: ArtifactKey) -> list[Problem]:
        """The damage of a shard after reading every byte; empty if it is sound or not recorded."""
        found = head(self.store, shard_site(key))
        try:
            if found.problem:
                raise CorruptArtifactError(found.problem)
            return self._problems(_stored(key, found.commit), rehash=True) if found.commit else []
        except CorruptArtifactError as error:
            return [_problem(key, "", str(error), "a readable shard record")]

    def heal(self, key: ArtifactKey) -> list[Problem]:
        """Retract a damaged shard, so that the next map makes it again. Returns the damage found."""
        problems = self.verify(key)
        if problems:
            check_folders(self.store)
            site = shard_site(key)
            retract(self.store, site, head(self.store, site).generation, reason=f"damaged: {problems[0]}")
        return problems

    def all(self) -> Iterator[StoredShard]:
        """Every finished shard whose record can be read; the others are logged and skipped."""
        with ThreadPoolExecutor(PARALLEL_FINDS) as threads:
            found = threads.map(self._readable, stored_keys(self.store, SHARDS))
            yield from (stored for stored in found if stored is not None)

    def _readable(self, key: ArtifactKey) -> StoredShard | None:
        found = head(self.store, shard_site(key))
        try:
            if found.problem:
                raise CorruptArtifactError(found.problem)
            return _stored(key, found.commit) if found.commit else None
        except CorruptArtifactError as error:
            log.warning("skipped: %s", error)
            return None

    def _problems(self, stored: StoredShard, *, rehash: bool) -> list[Problem]:
        different = differences(self.store, stored.data_key, stored.files, rehash=rehash)
        return [_problem(stored.key, item.path, item.found, item.expected) for item in different]

    def _open_head(self, key: ArtifactKey) -> Head:
        """The generation to record to. Retracts a damaged record; a sound one stays and wins."""
        site = shard_site(key)
        while True:
            found = roll_forward(self.store, site)
            if not (found.commit or found.problem) or self.find(key):
                return found
            check_folders(self.store)  # what is missing because its folder is not mounted is not damaged
            retract(self.store, site, found.generation, reason="damaged: unreadable, or files are missing or cut")

    def _keep_local(self, output: AttemptFolder) -> None:
        """Save a download on this machine: the staged files become the local copy."""
        output.forget_links()
        if not self.store.is_local:
            with suppress(OSError):
                move_to_cache(output.data, self.cache / output.site.data_key(output.attempt_id), self.cache)
            output.remove()


def _stored(key: ArtifactKey, commit: Commit) -> StoredShard:
    """The shard that a commit record describes.

    Raises:
        CorruptArtifactError: the record is not that of a shard.
    """
    where = f"shard record of {key}"
    record = record_from_json(_ShardBody, commit.record, where)
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


def _body(files: Iterable[FileEntry], outcome: ShardOutcome, provenance: Mapping[str, JSON]) -> dict[str, JSON]:
    return {"files": files_to_json(files), "outcome": _outcome_to_json(outcome), "provenance": dict(provenance)}


def _outcome_to_json(outcome: ShardOutcome) -> dict[str, JSON]:
    metrics: dict[str, JSON] = {name: number_to_json(value) for name, value in outcome.metrics.items()}
    quarantined: list[JSON] = [_quarantined_to_json(entry) for entry in outcome.quarantined]
    return {"rows": outcome.rows, "quarantined": quarantined, "metrics": metrics, "result": outcome.result}


def _quarantined_to_json(entry: Quarantined) -> dict[str, JSON]:
    found: dict[str, JSON] = {"item": entry.item, "reason": entry.reason, "found_by": entry.found_by}
    tries: list[JSON] = [dict(vars(attempt)) for attempt in entry.tries]
    return {**found, "tries": tries} if tries else found


def _problem(key: ArtifactKey, path: str, found: str, expected: str) -> Problem:
    return Problem(stage_kind=key.stage_kind, fingerprint=key.fingerprint, path=path, found=found, expected=expected)
