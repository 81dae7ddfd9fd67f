"""Artifacts in a store: made in an attempt folder, committed once, found by stage kind and fingerprint.

An artifact exists if and only if its commit record does. Committed records are never changed: an artifact that is
damaged or given up is retracted, and the next commit opens a new generation.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import failpoints
from orchestrator.artifact import JSON, Artifact, Fingerprint, Manifest
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.errors import CorruptArtifactError, StoreError
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
from orchestrator.store.layout import ARTIFACTS, artifact_site, stored_fingerprints
from orchestrator.store.manifests import manifest_from_bytes, manifest_to_bytes
from orchestrator.store.store import Store, put_same
from orchestrator.store.verification import Problem, differences, place, readable_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ManifestDraft:
    """What the executor knows about an artifact when its stage returns; the store adds the files and their digests."""

    kind: str  # artifact kind, e.g. "dataset@1"
    payload: dict[str, JSON]  # the identity that hashes to the attempt's fingerprint
    stats: Mapping[str, float]
    shards: tuple[str, ...] = ()
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    provenance: dict[str, JSON] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)  # path -> rows, where counting makes sense


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """A committed artifact as its records tell it, without touching its files."""

    manifest: Manifest
    manifest_sha256: str
    commit: Commit


@dataclass(frozen=True)
class ArtifactStore:
    """Artifacts of one store. `cache` is a local folder for downloads and staging; a local store leaves it empty."""

    store: Store
    cache: Path

    def find(self, stage_kind: str, fingerprint: str) -> Manifest | None:
        """The manifest of a committed artifact whose files are all there with their lengths; otherwise None.

        A damaged one counts as absent and is reported in the log; `verify(..., rehash=False)` says what is wrong.
        """
        stored = self.stored(stage_kind, fingerprint)
        return stored.manifest if stored else None

    def stored(self, stage_kind: str, fingerprint: str) -> StoredArtifact | None:
        """As `find`, with the commit record."""
        found = roll_forward(self.store, artifact_site(stage_kind, fingerprint))
        problems = self._problems(stage_kind, fingerprint, found, rehash=False)
        for problem in problems:
            log.warning("counts as absent and will be made again: %s", problem)
        return None if problems or not found.commit else self._read(stage_kind, fingerprint, found.commit)

    def open(self, stage_kind: str, fingerprint: str, *, only: Callable[[str], bool] = lambda _path: True) -> Artifact:
        """A committed artifact with a local folder to read it from; of a remote one `only` some files are fetched.

        Raises:
            CorruptArtifactError: there is none, or it is damaged.
        """
        found = roll_forward(self.store, artifact_site(stage_kind, fingerprint))
        if found.commit is None:
            state = found.problem or "no commit record"
            raise CorruptArtifactError(
                f"{self.store.url}: {stage_kind} {fingerprint}: found {state}; run its stage again"
            )
        return self._open(self._read(stage_kind, fingerprint, found.commit), only)

    def new_attempt(self, stage_kind: str, fingerprint: str, attempt_id: str) -> AttemptFolder:
        """An empty folder for one try.

        Raises:
            StoreError: the attempt id was used before.
        """
        return new_folder(
            self.store,
            self.cache,
            site=artifact_site(stage_kind, fingerprint),
            stage_kind=stage_kind,
            fingerprint=fingerprint,
            attempt=attempt_id,
        )

    def commit(self, attempt: AttemptFolder, draft: ManifestDraft, *, epoch: int) -> Artifact:
        """Make the attempt's files the artifact, or adopt the artifact of whoever was first.

        May be repeated with the same attempt after any failure, also by another process.

        Raises:
            StoreError: the store failed, or the attempt was given up by a reaper; committed work is safe.
        """
        site, own = attempt.site, attempt.attempt_id
        found = self._open_head(attempt.stage_kind, attempt.fingerprint)
        decided = outcome(self.store, site, own)
        if found.commit and decided is None:
            abort(self.store, site, own, reason=f"attempt {found.commit.attempt} was committed first")
            winner = found.commit
        else:
            body = {} if decided else self._write_manifest(attempt, draft)
            winner = conclude(self.store, site, generation=found.generation, attempt=own, epoch=epoch, body=body)
        if winner.attempt == own:
            self._keep_local(attempt)
        else:
            log.info("%s %s: adopting attempt %s", attempt.stage_kind, attempt.fingerprint, winner.attempt)
            self._delete_files(attempt)
        try:
            return self.open(attempt.stage_kind, attempt.fingerprint)
        except CorruptArtifactError as error:
            raise StoreError(f"{error}: it was committed, then retracted or damaged; try again") from error

    def abort(self, attempt: AttemptFolder, *, reason: str) -> bool:
        """Give an attempt up and delete its files. False: it has decided to commit already and nothing is deleted."""
        if not abort(self.store, attempt.site, attempt.attempt_id, reason=reason):
            return False
        self._delete_files(attempt)
        return True

    def verify(self, stage_kind: str, fingerprint: str, *, rehash: bool = True) -> list[Problem]:
        """What is damaged about a committed artifact; empty if nothing is, or if nothing is committed.

        With `rehash` every byte is read; without, only the records and the lengths of the files.
        """
        found = head(self.store, artifact_site(stage_kind, fingerprint))
        return self._problems(stage_kind, fingerprint, found, rehash=rehash)

    def heal(self, stage_kind: str, fingerprint: str) -> list[Problem]:
        """Retract a damaged artifact and those of its shards that are damaged: the next plan makes exactly them again.

        Returns what was damaged. Files that artifacts and shards share through links are damaged together.
        """
        site = artifact_site(stage_kind, fingerprint)
        found = head(self.store, site)
        problems = self._problems(stage_kind, fingerprint, found, rehash=True)
        if not problems:
            return []
        shards: tuple[str, ...] = ()
        if found.commit:
            with suppress(CorruptArtifactError):  # an unreadable manifest names no shards
                shards = self._read(stage_kind, fingerprint, found.commit).manifest.shards
        ledger = ShardLedger(self.store, self.cache)
        for shard in shards:
            problems += ledger.heal(stage_kind, shard)
        retract(self.store, site, found.generation, reason=f"damaged: {problems[0]}")
        return problems

    def retract(self, stage_kind: str, fingerprint: str, *, reason: str) -> bool:
        """Give a committed artifact up for good, e.g. because its data must be deleted. False: there is none."""
        site = artifact_site(stage_kind, fingerprint)
        found = roll_forward(self.store, site)
        if not found.commit and not found.problem:
            return False
        retract(self.store, site, found.generation, reason=reason)
        return True

    def all(self, of_kind: str = "") -> Iterator[StoredArtifact]:
        """Every committed artifact (of one stage kind) whose records can be read; others are reported in the log."""
        for stage_kind, fingerprint in stored_fingerprints(self.store, ARTIFACTS):
            if of_kind not in ("", stage_kind):
                continue
            found = head(self.store, artifact_site(stage_kind, fingerprint))
            try:
                if found.problem:
                    raise CorruptArtifactError(found.problem)
                if found.commit:
                    yield self._read(stage_kind, fingerprint, found.commit)
            except CorruptArtifactError as error:
                log.warning("passed over: %s", error)

    def _open(self, stored: StoredArtifact, only: Callable[[str], bool] = lambda _path: True) -> Artifact:
        manifest = stored.manifest
        site = artifact_site(manifest.stage_kind, manifest.fingerprint)
        files = [file for file in manifest.files if only(file.path)]
        path = readable_folder(self.store, self.cache, site.data_key(stored.commit.attempt), files)
        return Artifact(path=path, manifest=manifest, manifest_sha256=stored.manifest_sha256)

    def _read(self, stage_kind: str, fingerprint: str, commit: Commit) -> StoredArtifact:
        """
        Raises:
            CorruptArtifactError: the manifest is missing, not the one that was committed, or of something else.
        """
        key = artifact_site(stage_kind, fingerprint).manifest_key(commit.attempt)
        where, data = f"{self.store.url}: {key}", self.store.get(key)
        if data is None:
            raise CorruptArtifactError(f"{where}: found no manifest, expected the one that was committed")
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != commit.record.get("manifest_sha256"):
            raise CorruptArtifactError(
                f"{where}: found SHA-256 {sha256}, expected {commit.record.get('manifest_sha256')}"
            )
        manifest = manifest_from_bytes(data, where)
        if (manifest.stage_kind, manifest.fingerprint) != (stage_kind, fingerprint):
            raise CorruptArtifactError(f"{where}: found the manifest of {manifest.stage_kind} {manifest.fingerprint}")
        return StoredArtifact(manifest=manifest, manifest_sha256=sha256, commit=commit)

    def _problems(self, stage_kind: str, fingerprint: str, found: Head, *, rehash: bool) -> list[Problem]:
        def problem(path: str, state: str, expected: str) -> Problem:
            return Problem(stage_kind=stage_kind, fingerprint=fingerprint, path=path, found=state, expected=expected)

        if found.problem:
            return [problem("", found.problem, "a readable commit record")]
        if not found.commit:
            return []
        try:
            manifest = self._read(stage_kind, fingerprint, found.commit).manifest
        except CorruptArtifactError as error:
            return [problem("", str(error), "the committed manifest")]
        data_key = artifact_site(stage_kind, fingerprint).data_key(found.commit.attempt)
        different = differences(self.store, data_key, manifest.files, rehash=rehash)
        return [problem(item.path, item.found, item.expected) for item in different]

    def _open_head(self, stage_kind: str, fingerprint: str) -> Head:
        """What to commit to. A damaged artifact in the way is retracted; a sound one will be adopted."""
        site = artifact_site(stage_kind, fingerprint)
        while True:
            found = roll_forward(self.store, site)
            problems = self._problems(stage_kind, fingerprint, found, rehash=False)
            if not problems:
                return found
            retract(self.store, site, found.generation, reason=f"damaged: {problems[0]}")

    def _write_manifest(self, attempt: AttemptFolder, draft: ManifestDraft) -> dict[str, JSON]:
        """Steps 1 and 2. Returns what the commit record says about the manifest."""
        files = attempt.publish(draft.rows)
        failpoints.hit("artifact.files")
        manifest = Manifest(
            kind=draft.kind,
            stage_kind=attempt.stage_kind,
            fingerprint=Fingerprint(attempt.fingerprint),
            payload=draft.payload,
            files=files,
            stats=dict(draft.stats),
            shards=draft.shards,
            inputs=draft.inputs,
            provenance=draft.provenance,
        )
        data = manifest_to_bytes(manifest)
        put_same(self.store, attempt.site.manifest_key(attempt.attempt_id), data)
        failpoints.hit("artifact.manifest")
        return {"manifest_sha256": hashlib.sha256(data).hexdigest()}

    def _keep_local(self, attempt: AttemptFolder) -> None:
        """Spare a download: files staged for a remote store become the local copy of the artifact."""
        if not self.store.is_local and not attempt.has_links:
            with suppress(OSError):
                place(attempt.data, self.cache / attempt.site.data_key(attempt.attempt_id), self.cache)
        if not self.store.is_local:
            attempt.remove()
        attempt.forget_links()

    def _delete_files(self, attempt: AttemptFolder) -> None:
        delete_attempt(self.store, attempt.site, attempt.attempt_id)
        attempt.remove()
