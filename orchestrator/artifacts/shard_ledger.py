"""Write-once records of finished shards, found by fingerprint across runs and recipes.

A record whose files are missing or have another length counts as absent; the next one opens a new generation.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from orchestrator import failpoints
from orchestrator.artifact import JSON, FileEntry
from orchestrator.errors import CorruptArtifactError
from orchestrator.shards import Quarantined, ShardOutcome, ShardRecord
from orchestrator.store.attempt_folder import AttemptFolder, new_folder
from orchestrator.store.commits import (
    Commit,
    Head,
    abort,
    conclude,
    delete_attempt,
    head,
    outcome,
    retract,
    roll_forward,
)
from orchestrator.store.layout import SHARDS, new_attempt_id, shard_site, stored_fingerprints
from orchestrator.store.manifests import files_from_json, files_to_json, number_from_json, number_to_json
from orchestrator.store.store import Store
from orchestrator.store.verification import Problem, differences, place, readable_folder

log = logging.getLogger(__name__)

PARALLEL_FINDS = 16  # requests in flight to a remote store


@dataclass(frozen=True, kw_only=True)
class StoredShard:
    """A finished shard as its record tells it, without touching its files."""

    stage_kind: str
    fingerprint: str
    files: tuple[FileEntry, ...]
    outcome: ShardOutcome
    provenance: dict[str, JSON]  # e.g. run and attempt that made it
    commit: Commit

    @property
    def data_key(self) -> str:
        return shard_site(self.stage_kind, self.fingerprint).data_key(self.commit.attempt)

    def key_of(self, name: str) -> str:
        """The store's key of one of the files, e.g. to link it into an artifact."""
        return f"{self.data_key}/{name}"


@dataclass(frozen=True)
class ShardLedger:
    """Shard records of one store. Can be pickled: workers record what they finish themselves."""

    store: Store
    cache: Path

    def find(self, stage_kind: str, fingerprint: str) -> StoredShard | None:
        """The finished shard, if its files are all there with their lengths; otherwise None."""
        found = roll_forward(self.store, shard_site(stage_kind, fingerprint))
        if found.problem:
            log.warning("counts as absent and will be made again: %s", found.problem)
        if not found.commit:
            return None
        try:
            stored = _stored(stage_kind, fingerprint, found.commit)
        except CorruptArtifactError as error:
            log.warning("counts as absent and will be made again: %s", error)
            return None
        for problem in self._problems(stored, rehash=False):
            log.warning("counts as absent and will be made again: %s", problem)
            return None
        return stored

    def find_many(self, stage_kind: str, fingerprints: Iterable[str]) -> dict[str, StoredShard]:
        """Those of the shards that are finished."""
        wanted = list(dict.fromkeys(fingerprints))
        with ThreadPoolExecutor(1 if self.store.is_local else PARALLEL_FINDS) as threads:
            found = threads.map(lambda fingerprint: self.find(stage_kind, fingerprint), wanted)
            return {stored.fingerprint: stored for stored in found if stored}

    def new_output(self, stage_kind: str, fingerprint: str, *, owner: str) -> AttemptFolder:
        """An empty folder for a worker to write the shard's files into. `owner` is the id of the stage attempt."""
        return new_folder(
            self.store,
            self.cache,
            site=shard_site(stage_kind, fingerprint),
            stage_kind=stage_kind,
            fingerprint=fingerprint,
            attempt=new_attempt_id(owner),
        )

    def record(
        self, output: AttemptFolder, outcome_: ShardOutcome, *, provenance: Mapping[str, JSON], epoch: int = 0
    ) -> StoredShard:
        """Make the files in `output` the shard, or adopt the record of whoever was first. May be repeated.

        Raises:
            StoreError: the store failed, or a collector gave the output up.
        """
        site, own = output.site, output.attempt_id
        found = self._open_head(output.stage_kind, output.fingerprint)
        decided = outcome(self.store, site, own)
        if found.commit and decided is None:
            abort(self.store, site, own, reason=f"output {found.commit.attempt} was recorded first")
            winner = found.commit
        else:
            body = {} if decided else _body(output.publish(), outcome_, provenance)
            failpoints.hit("shard.files")
            winner = conclude(self.store, site, generation=found.generation, attempt=own, epoch=epoch, body=body)
        if winner.attempt == own:
            self._keep_local(output)
        else:
            delete_attempt(self.store, site, own)
            output.remove()
        return _stored(output.stage_kind, output.fingerprint, winner)

    def discard(self, output: AttemptFolder, *, reason: str) -> None:
        """Give an output up and delete its files, e.g. because the worker failed."""
        if abort(self.store, output.site, output.attempt_id, reason=reason):
            delete_attempt(self.store, output.site, output.attempt_id)
            output.remove()

    def fetch(self, stored: StoredShard) -> Path:
        """A local folder with the shard's files; for a remote store they are downloaded once and verified.

        Raises:
            CorruptArtifactError: they are damaged.
        """
        return readable_folder(self.store, self.cache, stored.data_key, stored.files)

    def to_record(self, stored: StoredShard, *, shard: str, reused: bool) -> ShardRecord:
        """The shard as a stage sees it, with its files fetched."""
        return ShardRecord(
            shard=shard,
            fingerprint=stored.fingerprint,
            path=self.fetch(stored),
            files=stored.files,
            outcome=stored.outcome,
            reused=reused,
        )

    def verify(self, stage_kind: str, fingerprint: str) -> list[Problem]:
        """What is damaged about a shard after reading every byte; empty if nothing is, or if it is not recorded."""
        found = head(self.store, shard_site(stage_kind, fingerprint))
        try:
            if found.problem:
                raise CorruptArtifactError(found.problem)
            return self._problems(_stored(stage_kind, fingerprint, found.commit), rehash=True) if found.commit else []
        except CorruptArtifactError as error:
            return [_problem(stage_kind, fingerprint, "", str(error), "a readable shard record")]

    def heal(self, stage_kind: str, fingerprint: str) -> list[Problem]:
        """Retract a damaged shard, so that the next map makes exactly it again. Returns what was damaged."""
        problems = self.verify(stage_kind, fingerprint)
        if problems:
            site = shard_site(stage_kind, fingerprint)
            retract(self.store, site, head(self.store, site).generation, reason=f"damaged: {problems[0]}")
        return problems

    def all(self) -> Iterator[StoredShard]:
        """Every finished shard whose record can be read; what cannot is reported in the log and passed over."""
        with ThreadPoolExecutor(PARALLEL_FINDS) as threads:
            found = threads.map(lambda place: self._readable(*place), stored_fingerprints(self.store, SHARDS))
            yield from (stored for stored in found if stored is not None)

    def _readable(self, stage_kind: str, fingerprint: str) -> StoredShard | None:
        found = head(self.store, shard_site(stage_kind, fingerprint))
        try:
            if found.problem:
                raise CorruptArtifactError(found.problem)
            return _stored(stage_kind, fingerprint, found.commit) if found.commit else None
        except CorruptArtifactError as error:
            log.warning("passed over: %s", error)
            return None

    def _problems(self, stored: StoredShard, *, rehash: bool) -> list[Problem]:
        different = differences(self.store, stored.data_key, stored.files, rehash=rehash)
        return [
            _problem(stored.stage_kind, stored.fingerprint, item.path, item.found, item.expected) for item in different
        ]

    def _open_head(self, stage_kind: str, fingerprint: str) -> Head:
        """What to record to. A damaged record in the way is retracted; a sound one will be adopted."""
        site = shard_site(stage_kind, fingerprint)
        while True:
            found = roll_forward(self.store, site)
            if not (found.commit or found.problem) or self.find(stage_kind, fingerprint):
                return found
            retract(self.store, site, found.generation, reason="damaged: unreadable, or files are missing or cut")

    def _keep_local(self, output: AttemptFolder) -> None:
        """Spare a download on this machine: the staged files become the local copy."""
        output.forget_links()
        if not self.store.is_local:
            with suppress(OSError):
                place(output.data, self.cache / output.site.data_key(output.attempt_id), self.cache)
            output.remove()


def _stored(stage_kind: str, fingerprint: str, commit: Commit) -> StoredShard:
    """
    Raises:
        CorruptArtifactError: the record is not that of a shard.
    """
    where, provenance = f"{stage_kind} {fingerprint}", commit.record.get("provenance")
    return StoredShard(
        stage_kind=stage_kind,
        fingerprint=fingerprint,
        files=files_from_json(commit.record.get("files"), where),
        outcome=_outcome_from_json(commit.record.get("outcome"), where),
        provenance=provenance if isinstance(provenance, dict) else {},
        commit=commit,
    )


def _body(files: Iterable[FileEntry], outcome_: ShardOutcome, provenance: Mapping[str, JSON]) -> dict[str, JSON]:
    return {"files": files_to_json(files), "outcome": _outcome_to_json(outcome_), "provenance": dict(provenance)}


def _outcome_to_json(outcome_: ShardOutcome) -> dict[str, JSON]:
    stats: dict[str, JSON] = {name: number_to_json(value) for name, value in outcome_.stats.items()}
    quarantined: list[JSON] = [{"item": item.item, "reason": item.reason} for item in outcome_.quarantined]
    return {"rows": outcome_.rows, "quarantined": quarantined, "stats": stats, "result": outcome_.result}


def _outcome_from_json(value: JSON, where: str) -> ShardOutcome:
    if not isinstance(value, dict):
        _refuse(where, "outcome", value, "an object")
    rows, quarantined, stats = value.get("rows"), value.get("quarantined"), value.get("stats")
    if type(rows) is not int or not isinstance(quarantined, list) or not isinstance(stats, dict):
        _refuse(where, "outcome", value, "rows, quarantined, stats")
    return ShardOutcome(
        rows=rows,
        quarantined=tuple(_quarantined(item, where) for item in quarantined),
        stats={name: number_from_json(number, where) for name, number in stats.items()},
        result=value.get("result"),
    )


def _quarantined(value: JSON, where: str) -> Quarantined:
    if not isinstance(value, dict) or not isinstance(value.get("reason"), str):
        _refuse(where, "quarantined", value, "an item with a reason")
    return Quarantined(item=value.get("item"), reason=str(value["reason"]))


def _problem(stage_kind: str, fingerprint: str, path: str, found: str, expected: str) -> Problem:
    return Problem(stage_kind=stage_kind, fingerprint=fingerprint, path=path, found=found, expected=expected)


def _refuse(where: str, place_: str, found: object, expected: str) -> NoReturn:
    raise CorruptArtifactError(f"shard record of {where}: {place_}: found {str(found)[:80]!r}, expected {expected}")
