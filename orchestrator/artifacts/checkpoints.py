"""Checkpoints of training stages, committed with the same protocol as artifacts, one site for each step.

They belong to the fingerprint of the stage, not to an attempt, so every later attempt of any run finds them. Every
write is behind the guard of its attempt: one that was aborted commits, retracts and prunes nothing.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from orchestrator import failpoints
from orchestrator.artifact import JSON, ArtifactKey, Chunks, FileEntry
from orchestrator.artifacts.attempt_guard import AttemptGuard, is_known
from orchestrator.artifacts.restarts import restart_in
from orchestrator.artifacts.takedowns import Restart
from orchestrator.attempt_id import AttemptId
from orchestrator.documents.typed_json import JSONObject, parse_record
from orchestrator.errors import CorruptArtifactError, StoreError
from orchestrator.stage import Checkpoint
from orchestrator.store.attempt_folder import files_below
from orchestrator.store.commits import Commit, Head, commit_attempt, delete_attempt, head, retract, roll_forward
from orchestrator.store.copies.copy_budget import delete_copy
from orchestrator.store.copies.copy_locks import let_go
from orchestrator.store.copies.local_copy import readable_folder
from orchestrator.store.copies.verification import differences
from orchestrator.store.fences import Fences
from orchestrator.store.layout import (
    Site,
    artifact_site,
    checkpoint_site,
    checkpoint_steps,
    new_attempt_id,
    owner_of,
)
from orchestrator.store.manifests import check_paths, files_to_json
from orchestrator.store.store import Store, put_same, record_bytes
from orchestrator.store.store_identity import check_folders

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 1
OPEN_PATIENCE_S = 30.0  # for a checkpoint that another machine committed: its listing may lag behind on NFS
OPEN_POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class _CheckpointRecord:
    """The persisted manifest of a checkpoint."""

    format: Literal[1]
    step: int
    files: tuple[FileEntry, ...]
    meta: JSONObject


def kept_steps(store: Store, key: ArtifactKey) -> list[int]:
    """The steps of the committed checkpoints, oldest first; nothing is verified."""
    return [step for step in checkpoint_steps(store, key) if head(store, checkpoint_site(key, step)).commit]


def checkpoint_files(store: Store, key: ArtifactKey, name: str) -> Iterator[tuple[int, bytes]]:
    """(step, content of the file `name`) of every committed checkpoint, oldest first; nothing is verified."""
    fences = Fences(store, artifact_site(key).attempts)
    for step in checkpoint_steps(store, key):
        site = checkpoint_site(key, step)
        commit = head(store, site, fences).commit
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
    payload: Mapping[str, JSON] | None = None  # the identity: see `AttemptGuard`
    known_takedowns: tuple[str, ...] = ()
    store_id: str = ""  # as of `AttemptGuard`
    verified: set[str] = field(default_factory=set)  # by this process: manifest digests
    ready: set[str] = field(default_factory=set)  # names of attempts that fenced the others
    open_patience_s: float = OPEN_PATIENCE_S

    @property
    def guard(self) -> AttemptGuard:
        return AttemptGuard(
            store=self.store,
            key=self.key,
            attempt=self.attempt,
            payload=self.payload,
            known_takedowns=self.known_takedowns,
            store_id=self.store_id,
        )

    def take_over(self) -> None:
        """Abort every other attempt that may still write checkpoints here; to be called once, before `latest`.

        A training that begins with a checkpoint of another one gets that as its own first checkpoint here.

        Raises: FencedError: this attempt itself was aborted, or its run has started a newer one.
        CorruptArtifactError: the checkpoint to begin with is gone or damaged.
        """
        self.guard.take_over()
        self.ready.add(self.attempt.name)
        self._adopt_restart()

    def _adopt_restart(self) -> None:
        """Commit the checkpoint that the identity says to begin with, if there is none yet. No bytes are sent."""
        restart = restart_in(self.payload)
        if restart is None or any(found.commit for _, found in self._heads()):
            return
        other = replace(self, key=restart.key)
        site, found = checkpoint_site(other.key, restart.step), other._open_head(restart.step)
        commit = head(self.store, site).commit if found is None else None
        if commit is None or commit.record.get("manifest_sha256") != restart.manifest_sha256:
            raise self._no_restart(restart)
        record = self._record(site, commit)
        while draft := self.begin(restart.step):
            target = checkpoint_site(self.key, restart.step).data_key(draft)
            for entry in record.files:
                self.store.link(f"{site.data_key(commit.attempt)}/{entry.path}", f"{target}/{entry.path}")
            if self._conclude(restart.step, draft, record.files, record.meta):
                break
        log.info("begins with the clean checkpoint of step %d of %s", restart.step, restart.key)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose files match their digests; damaged checkpoints are logged and skipped.

        Raises: UnreachableStoreError: this node does not see the store, so it would see no checkpoint.
        CorruptArtifactError: the training begins with a checkpoint of another one, and none is sound.
        """
        self.guard.check_node()
        self._fence_aborted()
        for step, found in self._heads():
            try:
                if found.commit:
                    self._report_if_unknown(step, found.commit)
                    return self._read(step, found.commit)
                if found.problem:
                    raise CorruptArtifactError(found.problem)
            except CorruptArtifactError as error:
                log.warning("checkpoint of step %d skipped: %s", step, error)
        if (restart := restart_in(self.payload)) is not None:  # its identity says that it does not begin at step 0
            raise self._no_restart(restart)
        return None

    def _no_restart(self, restart: Restart) -> CorruptArtifactError:
        return CorruptArtifactError(
            f"{self.store.url}: the checkpoint of step {restart.step} of {restart.key}, with which this training "
            "begins after a takedown, is gone or damaged; `illume run` with its recipe makes a new plan"
        )

    def open(self, step: int, digest: str) -> Checkpoint:
        """The checkpoint of `step` whose manifest has the SHA-256 `digest`, as `latest` of another process chose it.

        That process has read every byte in the store; where this one reads the same files, it compares their sizes.

        Raises:
            CorruptArtifactError: there is another one, or none within `open_patience_s`, or files are missing.
        """
        deadline_s = time.monotonic() + self.open_patience_s
        while True:
            found = head(self.store, checkpoint_site(self.key, step))
            if found.commit and found.commit.record.get("manifest_sha256") == digest:
                return self._read(step, found.commit, rehash=False)
            if time.monotonic() >= deadline_s:
                other = found.commit.record.get("manifest_sha256") if found.commit else found.problem or "none"
                raise CorruptArtifactError(
                    f"{self.store.url}: checkpoint of step {step} of {self.key}: found {other}, expected the manifest "
                    f"{digest} that rank 0 chose; do all nodes see the same store?"
                )
            time.sleep(min(OPEN_POLL_S, self.open_patience_s))

    def commit(self, step: int, folder: Path, meta: Mapping[str, JSON]) -> None:
        """Copy the files below `folder` into the store as the checkpoint of `step`; the first commit of a step wins.

        `folder` is not changed. A damaged checkpoint of the same step is replaced.

        Raises:
            FencedError: the attempt was aborted.
            TakenDownError: a takedown took effect that the attempt does not know and that concerns it.
            StoreError: the store failed; older checkpoints are safe.
        """
        while draft := self.begin(step):
            data_key, files = checkpoint_site(self.key, step).data_key(draft), list[FileEntry]()
            for name in files_below(folder):
                digest = self.store.upload(folder / name, f"{data_key}/{name}")
                files.append(FileEntry(path=name, bytes=digest.bytes, sha256=digest.sha256))
            if self._conclude(step, draft, files, meta):
                return
            log.info("checkpoint of step %d: an attempt that was aborted came first; committing again", step)

    def begin(self, step: int) -> str:
        """The name of a draft, into which every process of the attempt may write; "" if the step has a sound one.

        A damaged checkpoint of the step is retracted. Raises: FencedError: the attempt was aborted.
        """
        self._fence_aborted()
        self.guard.check()
        return "" if self._open_head(step) is None else new_attempt_id(self.attempt.name)

    def write_part(self, step: int, draft: str, name: str, chunks: Chunks, size: int) -> FileEntry:
        """Write one file of a draft straight into the store, and read it back.

        Raises:
            FencedError: the attempt was aborted.
            StoreError: the store failed, or what it holds is not what was written.
        """
        self.guard.check()
        key = f"{checkpoint_site(self.key, step).data_key(draft)}/{name}"
        digest = self.store.write(key, chunks, size)
        if (stored := self.store.digest(key)) != digest:
            raise StoreError(f"{self.store.url}: '{key}': found {stored} right after writing, expected {digest}")
        return FileEntry(path=name, bytes=digest.bytes, sha256=digest.sha256)

    def conclude(self, step: int, draft: str, files: Sequence[FileEntry], meta: Mapping[str, JSON]) -> bool:
        """Commit a draft whose files `write_part` wrote. False: another record took the generation; begin again.

        Raises:
            FencedError: the attempt was aborted.
            CorruptArtifactError: two writers name the same file.
        """
        return self._conclude(step, draft, files, meta, is_read_back=True)

    def _conclude(
        self,
        step: int,
        draft: str,
        files: Sequence[FileEntry],
        meta: Mapping[str, JSON],
        *,
        is_read_back: bool = False,
    ) -> bool:
        failpoints.hit("checkpoint.files")
        self.guard.check()
        site, entries = checkpoint_site(self.key, step), tuple(sorted(files, key=lambda entry: entry.path))
        check_paths(entries, f"{self.store.url}: {site.manifest_key(draft)}")
        found = self._open_head(step)
        if found is None:
            delete_attempt(self.store, site, draft)
            return True
        data = record_bytes(
            {"format": CHECKPOINT_FORMAT, "step": step, "files": files_to_json(entries), "meta": dict(meta)}
        )
        put_same(self.store, site.manifest_key(draft), data)
        failpoints.hit("checkpoint.manifest")
        self.guard.check()
        body: dict[str, JSON] = {"manifest_sha256": hashlib.sha256(data).hexdigest()}
        winner = commit_attempt(
            self.store, site, generation=found.generation, attempt=draft, epoch=self.attempt.epoch, body=body
        )
        if winner.attempt != draft:
            delete_attempt(self.store, site, draft)
        elif is_read_back:
            self.verified.add(str(body["manifest_sha256"]))
        return winner.attempt == draft

    def _open_head(self, step: int) -> Head | None:
        """The generation that is to be committed next; None if a sound checkpoint of the step counts."""
        site = checkpoint_site(self.key, step)
        found = roll_forward(self.store, site)
        while found.commit or found.problem:
            if self._is_sound(step, found):
                return None
            check_folders(self.store)  # what is missing because its folder is not mounted is not damaged
            retract(self.store, site, found.generation, reason="damaged", attempt=self.attempt.name)
            found = roll_forward(self.store, site)
        return found

    def prune(self, keep: int, needed: int | None = None, best: int | None = None) -> None:
        """Delete all but the newest `keep` verified checkpoints; delete nothing if fewer than `keep` can be verified.

        Also keeps the newest one at or before step `needed`, and that of step `best`.
        """
        if keep < 1:
            raise ValueError(f"keep: found {keep}, expected at least 1")
        self.guard.check()
        self._fence_aborted()
        kept, superseded = 0, []
        for step, found in self._heads():
            is_needed = needed is not None and step <= needed
            if step == best:
                continue
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
        self.guard.check()
        self._fence_aborted()
        for later, found in self._heads():
            if later > step and (found.commit or found.problem):
                self._retract(later, found, reason=f"training goes on from step {step} in another way")

    def _retract(self, step: int, found: Head, *, reason: str) -> None:
        """Retract a checkpoint, then delete its files. Raises: FencedError: the attempt was aborted; both are kept."""
        site = checkpoint_site(self.key, step)
        self.guard.check()
        retract(self.store, site, found.generation, reason=reason, attempt=self.attempt.name)
        self.guard.check()  # aborted before the retraction: it does not count, and the files are still needed
        if found.commit:
            delete_attempt(self.store, site, found.commit.attempt)
            if not self.store.is_local:
                let_go(self.cache, site.data_key(found.commit.attempt))
                delete_copy(self.cache, site.data_key(found.commit.attempt))

    def _heads(self) -> Iterator[tuple[int, Head]]:
        """(step, newest generation) of each step, newest step first."""
        fences = Fences(self.store, artifact_site(self.key).attempts)
        for step in reversed(checkpoint_steps(self.store, self.key)):
            yield step, roll_forward(self.store, checkpoint_site(self.key, step), fences)

    def _fence_aborted(self) -> None:
        """Once for each attempt: fence what was aborted before it began, e.g. by its driver."""
        if self.attempt.name not in self.ready:
            self.guard.fence_aborted()
            self.ready.add(self.attempt.name)

    def _report_if_unknown(self, step: int, commit: Commit) -> None:
        owner = owner_of(commit.attempt)
        if owner != self.attempt.name and not is_known(self.store, self.key, owner):
            key = checkpoint_site(self.key, step).commit_key(commit.generation)
            log.warning("%s: %s: of attempt '%s', which is not known here; used if sound", self.store.url, key, owner)

    def _is_sound(self, step: int, found: Head) -> bool:
        if not found.commit:
            return False
        if found.commit.record.get("manifest_sha256") in self.verified:
            return True
        try:
            self._read(step, found.commit, is_copied=False)
        except CorruptArtifactError as error:
            log.warning("checkpoint of step %d is damaged: %s", step, error)
            return False
        return True

    def _read(self, step: int, commit: Commit, *, is_copied: bool = True, rehash: bool = True) -> Checkpoint:
        """The checkpoint of a step, verified byte by byte, in a local folder; of a remote store if `is_copied`.

        Without `rehash` the bytes of files that are not copied are not read, and it does not count as verified.

        Raises:
            NewerFormatError: a newer version wrote it.
            CorruptArtifactError: anything is missing or differs.
        """
        site = checkpoint_site(self.key, step)
        where, sha256 = f"{self.store.url}: {site.manifest_key(commit.attempt)}", commit.record.get("manifest_sha256")
        record = self._record(site, commit)
        files = record.files
        if record.step != step:
            raise CorruptArtifactError(f"{where}: found the checkpoint of step {record.step}, expected step {step}")
        data_key = site.data_key(commit.attempt)
        path = self.store.local(data_key) or self.cache / data_key
        if self.store.is_local or not is_copied:  # a copy is verified while it arrives
            for different in differences(self.store, data_key, files, rehash=rehash):
                raise CorruptArtifactError(
                    f"{where}: file '{different.path}': found {different.found}, expected {different.expected}"
                )
        if is_copied:
            readable_folder(self.store, self.cache, data_key, files)
        if rehash:
            self.verified.add(str(sha256))
        return Checkpoint(step=step, path=path, meta=record.meta, digest=str(sha256), files=files)

    def _record(self, site: Site, commit: Commit) -> _CheckpointRecord:
        """The manifest of a committed checkpoint. Raises: as `_read`, whose files are not looked at."""
        manifest_key, sha256 = site.manifest_key(commit.attempt), commit.record.get("manifest_sha256")
        where, data = f"{self.store.url}: {manifest_key}", self.store.get(manifest_key)
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            raise CorruptArtifactError(f"{where}: found no manifest or a different one, expected SHA-256 {sha256}")
        record = parse_record(_CheckpointRecord, data, where)
        check_paths(record.files, where)
        return record
