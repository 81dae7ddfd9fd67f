"""Checkpoints of training stages, committed with the same protocol as artifacts, one site for each step.

They belong to the fingerprint of the stage, not to an attempt, so every later attempt of any run finds them.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator import failpoints
from orchestrator.artifact import JSON, ArtifactKey, FileEntry
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import CorruptArtifactError
from orchestrator.stage import Checkpoint
from orchestrator.store.attempt_folder import files_below
from orchestrator.store.commits import Commit, Head, commit_attempt, delete_attempt, head, retract, roll_forward
from orchestrator.store.layout import checkpoint_site, checkpoint_steps, new_attempt_id
from orchestrator.store.manifests import check_paths, files_to_json
from orchestrator.store.store import Store, put_same, record_bytes
from orchestrator.store.verification import differences, readable_folder
from orchestrator.typed_json import JSONObject, parse_record

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class _CheckpointRecord:
    """The persisted manifest of a checkpoint."""

    format: Literal[1]
    step: int
    files: tuple[FileEntry, ...]
    meta: JSONObject


def checkpoint_files(store: Store, key: ArtifactKey, name: str) -> Iterator[tuple[int, bytes]]:
    """(step, content of the file `name`) of every committed checkpoint, oldest first; nothing is verified."""
    for step in checkpoint_steps(store, key):
        site = checkpoint_site(key, step)
        commit = head(store, site).commit
        data = store.get(f"{site.data_key(commit.attempt)}/{name}") if commit else None
        if data is not None:
            yield step, data


@dataclass(frozen=True, kw_only=True)
class StoredCheckpoints:
    """`stage.Checkpoints` of one stage fingerprint. Can be pickled: every rank may have a copy, one rank commits."""

    store: Store
    cache: Path
    key: ArtifactKey  # of the artifact that the stage makes
    attempt: AttemptId  # the attempt that commits through this object
    verified: set[str] = field(default_factory=set, compare=False, repr=False)  # by this process: manifest digests

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose files match their digests; damaged checkpoints are logged and skipped."""
        for step, found in self._heads():
            try:
                if found.commit:
                    return self._read(step, found.commit)
                if found.problem:
                    raise CorruptArtifactError(found.problem)
            except CorruptArtifactError as error:
                log.warning("checkpoint of step %d skipped: %s", step, error)
        return None

    def commit(self, step: int, folder: Path, meta: Mapping[str, JSON]) -> None:
        """Copy the files below `folder` into the store as the checkpoint of `step`; the first commit of a step wins.

        `folder` is not changed. A damaged checkpoint of the same step is replaced.

        Raises:
            StoreError: the store failed; older checkpoints are safe.
        """
        site = checkpoint_site(self.key, step)
        found = roll_forward(self.store, site)
        while found.commit or found.problem:
            if self._is_sound(step, found):
                return
            retract(self.store, site, found.generation, reason="damaged")
            found = roll_forward(self.store, site)
        attempt = new_attempt_id(self.attempt.name)
        files: list[FileEntry] = []
        for name in files_below(folder):
            digest = self.store.upload(folder / name, f"{site.data_key(attempt)}/{name}")
            files.append(FileEntry(path=name, bytes=digest.bytes, sha256=digest.sha256))
        failpoints.hit("checkpoint.files")
        data = record_bytes(
            {"format": CHECKPOINT_FORMAT, "step": step, "files": files_to_json(files), "meta": dict(meta)}
        )
        put_same(self.store, site.manifest_key(attempt), data)
        failpoints.hit("checkpoint.manifest")
        body: dict[str, JSON] = {"manifest_sha256": hashlib.sha256(data).hexdigest()}
        winner = commit_attempt(
            self.store, site, generation=found.generation, attempt=attempt, epoch=self.attempt.epoch, body=body
        )
        if winner.attempt != attempt:
            delete_attempt(self.store, site, attempt)

    def prune(self, keep: int, needed: int | None = None) -> None:
        """Delete all but the newest `keep` verified checkpoints; delete nothing if fewer than `keep` can be verified.

        Also keeps the newest one at or before step `needed`.
        """
        if keep < 1:
            raise ValueError(f"keep: found {keep}, expected at least 1")
        kept, superseded = 0, []
        for step, found in self._heads():
            is_needed = needed is not None and step <= needed
            if (kept < keep or is_needed) and self._is_sound(step, found):
                kept += 1
                needed = None if is_needed else needed
            elif found.commit or found.problem:
                superseded.append((step, found))
        if kept < keep:
            return
        for step, found in superseded:
            self._retract(step, found, reason=f"pruned: {keep} newer ones are kept")

    def retract_after(self, step: int) -> None:
        """Retract the checkpoints of steps later than `step`, newest first. Can be interrupted and repeated."""
        for later, found in self._heads():
            if later > step and (found.commit or found.problem):
                self._retract(later, found, reason=f"training goes on from step {step} in another way")

    def _retract(self, step: int, found: Head, *, reason: str) -> None:
        """Retract a checkpoint, then delete its files."""
        site = checkpoint_site(self.key, step)
        retract(self.store, site, found.generation, reason=reason)
        if found.commit:
            delete_attempt(self.store, site, found.commit.attempt)

    def _heads(self) -> Iterator[tuple[int, Head]]:
        """(step, newest generation) of each step, newest step first."""
        for step in reversed(checkpoint_steps(self.store, self.key)):
            yield step, roll_forward(self.store, checkpoint_site(self.key, step))

    def _is_sound(self, step: int, found: Head) -> bool:
        if not found.commit:
            return False
        if found.commit.record.get("manifest_sha256") in self.verified:
            return True
        try:
            self._read(step, found.commit)
        except CorruptArtifactError as error:
            log.warning("checkpoint of step %d is damaged: %s", step, error)
            return False
        return True

    def _read(self, step: int, commit: Commit) -> Checkpoint:
        """The checkpoint of a step, verified byte by byte, in a local folder.

        Raises:
            NewerFormatError: a newer version wrote it.
            CorruptArtifactError: anything is missing or differs.
        """
        site = checkpoint_site(self.key, step)
        manifest_key = site.manifest_key(commit.attempt)
        where, data = f"{self.store.url}: {manifest_key}", self.store.get(manifest_key)
        sha256 = commit.record.get("manifest_sha256")
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            raise CorruptArtifactError(f"{where}: found no manifest or a different one, expected SHA-256 {sha256}")
        record = parse_record(_CheckpointRecord, data, where)
        check_paths(record.files, where)
        files = record.files
        if record.step != step:
            raise CorruptArtifactError(f"{where}: found the checkpoint of step {record.step}, expected step {step}")
        data_key = site.data_key(commit.attempt)
        if self.store.is_local:
            for different in differences(self.store, data_key, files, rehash=True):
                raise CorruptArtifactError(
                    f"{where}: file '{different.path}': found {different.found}, expected {different.expected}"
                )
        path = readable_folder(self.store, self.cache, data_key, files)
        self.verified.add(str(sha256))
        return Checkpoint(step=step, path=path, meta=record.meta)
