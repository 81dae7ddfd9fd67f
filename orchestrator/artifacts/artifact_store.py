"""Artifacts in a store: made in an attempt folder, committed once, found by stage kind and fingerprint.

An artifact exists if and only if its commit record does. Committed records are never changed: an artifact that is
damaged or no longer wanted is retracted, and the next commit opens a new generation.
"""

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator import failpoints
from orchestrator.artifact import JSON, Artifact, ArtifactKey, Fingerprint, Manifest
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.takedowns import PROVENANCE_TAKEDOWNS, check_no_new_takedown
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import CorruptArtifactError, FencedError, StoreError
from orchestrator.store.attempt_folder import AttemptFolder, new_folder
from orchestrator.store.commits import (
    Commit,
    Head,
    Outcome,
    abort,
    commit_attempt,
    delete_attempt,
    head,
    read_outcome,
    retract,
    roll_forward,
)
from orchestrator.store.copies.local_copy import adopt_folder, readable_folder
from orchestrator.store.copies.verification import Problem, differences
from orchestrator.store.layout import ARTIFACTS, artifact_site, stored_keys
from orchestrator.store.manifests import manifest_from_bytes, manifest_to_bytes
from orchestrator.store.store import Store, put_same, record_bytes
from orchestrator.store.store_identity import check_folders

log = logging.getLogger(__name__)

CLAIM_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ManifestDraft:
    """A manifest as known when the stage returns, still without files; `commit` adds them with their digests."""

    kind: str  # artifact kind, e.g. "dataset@1"
    payload: dict[str, JSON]  # the identity that hashes to the attempt's fingerprint
    metrics: Mapping[str, float]
    shards: tuple[str, ...] = ()
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    provenance: dict[str, JSON] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)  # path -> rows, for files whose rows are counted
    known_takedowns: tuple[str, ...] = ()  # ids of those that the attempt respected


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """A committed artifact as read from its records; its files are not read."""

    manifest: Manifest
    manifest_sha256: str
    commit: Commit


@dataclass(frozen=True)
class ArtifactStore:
    """Artifacts of one store. `cache` is a local folder for downloads and staging; a local store leaves it empty."""

    store: Store
    cache: Path
    holder: str = ""  # for whom copies are kept from being deleted, see `copy_locks`; "": for this process

    def find(self, key: ArtifactKey) -> Manifest | None:
        """The manifest of a committed artifact whose files all exist with the recorded lengths; otherwise None.

        A damaged artifact counts as absent and is logged; `verify(..., rehash=False)` lists what is wrong.

        Raises:
            UnreachableStoreError: a folder of the store is not there, so nothing can be said.
        """
        stored = self.stored(key)
        return stored.manifest if stored else None

    def stored(self, key: ArtifactKey) -> StoredArtifact | None:
        """Like `find`, but also returns the commit record."""
        stored, problems = self._checked(key, roll_forward(self.store, artifact_site(key)), rehash=False)
        if problems:
            check_folders(self.store)
        for problem in problems:
            log.warning("treated as absent, will be made again: %s", problem)
        return None if problems else stored

    def open(self, key: ArtifactKey, *, only: Callable[[str], bool] = lambda _path: True) -> Artifact:
        """A committed artifact with a local folder to read it from; from a remote store, only files accepted by `only`.

        Raises:
            CorruptArtifactError: it is not committed, or is damaged.
        """
        return self._open(self._committed(key), only)

    def locate(self, key: ArtifactKey) -> Artifact:
        """A committed artifact as its records describe it; of a remote store, `path` need not exist.

        For whoever follows what was made and reads none of it. Raises: CorruptArtifactError: it is not committed.
        """
        return self.open(key) if self.store.is_local else self._located(self._committed(key))

    def uri_of(self, artifact: Artifact) -> str:
        """Where other programs find the files of an artifact of this store, e.g. "s3://bucket/prefix/.../data"."""
        if self.store.is_local:
            return artifact.path.as_uri()
        base = urlsplit(self.store.url)._replace(query="").geturl()
        return f"{base.rstrip('/')}/{artifact.path.relative_to(self.cache).as_posix()}"

    def new_attempt(self, key: ArtifactKey, attempt_id: str, *, attempt: AttemptId | None = None) -> AttemptFolder:
        """An empty folder for one attempt. `attempt` is recorded in its claim, for attempts that look for newer ones.

        Raises:
            StoreError: the attempt id was used before, on this machine or elsewhere.
            FencedError: the attempt was aborted before it began.
        """
        site = artifact_site(key)
        claim: dict[str, JSON] = {"format": CLAIM_FORMAT, "attempt": attempt_id, "nonce": uuid.uuid4().hex}
        if attempt is not None:
            claim |= {**attempt.provenance, "epoch": attempt.epoch}
        if not self.store.put_new(site.claim_key(attempt_id), record_bytes(claim)):
            raise StoreError(
                f"{self.store.url}: '{site.claim_key(attempt_id)}' exists already; expected an attempt id that was "
                "never used"
            )
        failpoints.hit("attempt.claimed")
        decided = read_outcome(self.store, site, attempt_id)
        if decided is not None:
            raise FencedError(f"{self.store.url}: attempt '{attempt_id}' was aborted before it began{_why(decided)}")
        return new_folder(self.store, self.cache, site=site, key=key, attempt=attempt_id)

    def commit(self, attempt: AttemptFolder, draft: ManifestDraft, *, epoch: int, is_opened: bool = True) -> Artifact:
        """Commit the attempt's files as the artifact, or return the artifact of the attempt that committed first.

        `is_opened`: returned as by `open`; otherwise as by `locate`, which downloads nothing.
        May be repeated with the same attempt after any failure, also by another process.

        Raises:
            FencedError: the attempt was aborted, or a takedown took effect that it does not know (TakenDownError);
                nothing was changed.
            StoreError: the store failed; committed work is safe.
        """
        site, own = attempt.site, attempt.attempt_id
        decided = read_outcome(self.store, site, own)
        if decided is not None and decided.kind != "COMMIT":  # before anything that is found damaged is retracted
            raise FencedError(f"{self.store.url}: attempt '{own}' was aborted before it could commit{_why(decided)}")
        found = self._open_head(attempt.key)
        if found.commit:
            abort(self.store, site, own, reason=f"attempt {found.commit.attempt} was committed first")
            winner = found.commit
        else:
            body = {} if decided else self._write_manifest(attempt, draft)
            if not decided:
                check_no_new_takedown(self.store, draft.known_takedowns, draft.payload, attempt.key.fingerprint)
            winner = commit_attempt(self.store, site, generation=found.generation, attempt=own, epoch=epoch, body=body)
        if winner.attempt == own:
            self._keep_local(attempt)
        else:
            log.info("%s: using attempt %s, which committed first", attempt.key, winner.attempt)
            self._delete_files(attempt)
        try:
            return self.open(attempt.key) if is_opened else self.locate(attempt.key)
        except CorruptArtifactError as error:
            raise StoreError(f"{error}: it was committed, then retracted or damaged; try again") from error

    def abort(self, attempt: AttemptFolder, *, reason: str) -> bool:
        """Abort an attempt and delete its files. False: it has already decided to commit, and nothing is deleted."""
        if not abort(self.store, attempt.site, attempt.attempt_id, reason=reason):
            return False
        self._delete_files(attempt)
        return True

    def abort_attempt(self, key: ArtifactKey, attempt_id: str, *, reason: str) -> bool:
        """Abort an attempt that may still be running somewhere: nothing that it writes from now on counts.

        Deletes nothing. False: it has already decided to commit.
        """
        return abort(self.store, artifact_site(key), attempt_id, reason=reason)

    def verify(self, key: ArtifactKey, *, rehash: bool = True) -> list[Problem]:
        """The damage of a committed artifact; empty if it is sound or if none is committed.

        With `rehash` every byte is read; without it, only the records and the lengths of the files.
        """
        found = head(self.store, artifact_site(key))
        return self._problems(key, found, rehash=rehash)

    def heal(self, key: ArtifactKey) -> list[Problem]:
        """Retract a damaged artifact and its damaged shards, so that the next plan makes exactly these again.

        Returns the damage found. Files that artifacts and shards share through links are damaged together.
        """
        site = artifact_site(key)
        found = head(self.store, site)
        problems = self._problems(key, found, rehash=True)
        if not problems:
            return []
        check_folders(self.store)
        shards: tuple[str, ...] = ()
        if found.commit:
            with suppress(CorruptArtifactError):  # an unreadable manifest names no shards
                shards = self._read(key, found.commit).manifest.shards
        ledger = ShardLedger(self.store, self.cache)
        for shard in shards:
            problems += ledger.heal(ArtifactKey(key.stage_kind, shard))
        retract(self.store, site, found.generation, reason=f"damaged: {problems[0]}")
        return problems

    def retract(self, key: ArtifactKey, *, reason: str) -> bool:
        """Retract a committed artifact for good, e.g. because its data must be deleted. False: none is committed."""
        site = artifact_site(key)
        found = roll_forward(self.store, site)
        if not found.commit and not found.problem:
            return False
        retract(self.store, site, found.generation, reason=reason)
        return True

    def all(self, stage_kind: str = "") -> Iterator[StoredArtifact]:
        """Every committed artifact (of one stage kind) whose records can be read; the others are logged."""
        for key in stored_keys(self.store, ARTIFACTS):
            if stage_kind not in ("", key.stage_kind):
                continue
            found = head(self.store, artifact_site(key))
            try:
                if found.problem:
                    raise CorruptArtifactError(found.problem)
                if found.commit:
                    yield self._read(key, found.commit)
            except CorruptArtifactError as error:
                log.warning("skipped: %s", error)

    def _open(self, stored: StoredArtifact, only: Callable[[str], bool]) -> Artifact:
        manifest = stored.manifest
        site = artifact_site(manifest.key)
        files = [file for file in manifest.files if only(file.path)]
        readable_folder(self.store, self.cache, site.data_key(stored.commit.attempt), files, self.holder)
        return self._located(stored)

    def _located(self, stored: StoredArtifact) -> Artifact:
        data_key = artifact_site(stored.manifest.key).data_key(stored.commit.attempt)
        path = self.store.local(data_key) or self.cache / data_key
        return Artifact(path=path, manifest=stored.manifest, manifest_sha256=stored.manifest_sha256)

    def _committed(self, key: ArtifactKey) -> StoredArtifact:
        """Raises: CorruptArtifactError: it is not committed, or its manifest is damaged."""
        found = roll_forward(self.store, artifact_site(key))
        if found.commit is None:
            state = found.problem or "no commit record"
            raise CorruptArtifactError(f"{self.store.url}: {key}: found {state}; run its stage again")
        return self._read(key, found.commit)

    def _read(self, key: ArtifactKey, commit: Commit) -> StoredArtifact:
        """The artifact that `commit` names, with its verified manifest.

        Raises:
            CorruptArtifactError: the manifest is missing, differs from the committed one, or is of another artifact.
        """
        manifest_key = artifact_site(key).manifest_key(commit.attempt)
        where, data = f"{self.store.url}: {manifest_key}", self.store.get(manifest_key)
        if data is None:
            raise CorruptArtifactError(f"{where}: found no manifest, expected the committed one")
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != commit.record.get("manifest_sha256"):
            raise CorruptArtifactError(
                f"{where}: found SHA-256 {sha256}, expected {commit.record.get('manifest_sha256')}"
            )
        manifest = manifest_from_bytes(data, where)
        if manifest.key != key:
            raise CorruptArtifactError(f"{where}: found the manifest of {manifest.key}")
        return StoredArtifact(manifest=manifest, manifest_sha256=sha256, commit=commit)

    def _problems(self, key: ArtifactKey, found: Head, *, rehash: bool) -> list[Problem]:
        return self._checked(key, found, rehash=rehash)[1]

    def _checked(self, key: ArtifactKey, found: Head, *, rehash: bool) -> tuple[StoredArtifact | None, list[Problem]]:
        """The artifact, if its records can be read, and what is wrong with it."""

        def problem(path: str, state: str, expected: str) -> Problem:
            return Problem(
                stage_kind=key.stage_kind, fingerprint=key.fingerprint, path=path, found=state, expected=expected
            )

        if found.problem:
            return None, [problem("", found.problem, "a readable commit record")]
        if not found.commit:
            return None, []
        try:
            stored = self._read(key, found.commit)
        except CorruptArtifactError as error:
            return None, [problem("", str(error), "the committed manifest")]
        data_key = artifact_site(key).data_key(found.commit.attempt)
        different = differences(self.store, data_key, stored.manifest.files, rehash=rehash)
        return stored, [problem(item.path, item.found, item.expected) for item in different]

    def _open_head(self, key: ArtifactKey) -> Head:
        """The generation to commit to. Retracts a damaged artifact; a sound one stays and wins."""
        site = artifact_site(key)
        while True:
            found = roll_forward(self.store, site)
            problems = self._problems(key, found, rehash=False)
            if not problems:
                return found
            check_folders(self.store)  # what is missing because its folder is not mounted is not damaged
            retract(self.store, site, found.generation, reason=f"damaged: {problems[0]}")

    def _write_manifest(self, attempt: AttemptFolder, draft: ManifestDraft) -> dict[str, JSON]:
        """Steps 1 and 2 of a commit. Returns the fields of the commit record that identify the manifest."""
        files = attempt.publish(draft.rows)
        failpoints.hit("artifact.files")
        manifest = Manifest(
            kind=draft.kind,
            stage_kind=attempt.key.stage_kind,
            fingerprint=Fingerprint(attempt.key.fingerprint),
            payload=draft.payload,
            files=files,
            metrics=dict(draft.metrics),
            shards=draft.shards,
            inputs=draft.inputs,
            provenance={**draft.provenance, PROVENANCE_TAKEDOWNS: list(draft.known_takedowns)},
        )
        data = manifest_to_bytes(manifest)
        put_same(self.store, attempt.site.manifest_key(attempt.attempt_id), data)
        failpoints.hit("artifact.manifest")
        return {"manifest_sha256": hashlib.sha256(data).hexdigest()}

    def _keep_local(self, attempt: AttemptFolder) -> None:
        """Save a download: the files staged for a remote store become the local copy of the artifact."""
        if not self.store.is_local and not attempt.has_links:
            with suppress(OSError):
                adopt_folder(self.cache, attempt.site.data_key(attempt.attempt_id), attempt.data)
        if not self.store.is_local:
            attempt.remove()
        attempt.forget_links()

    def _delete_files(self, attempt: AttemptFolder) -> None:
        delete_attempt(self.store, attempt.site, attempt.attempt_id)
        attempt.remove()


def _why(decided: Outcome) -> str:
    return f" ({decided.reason})" if decided.reason else ""
