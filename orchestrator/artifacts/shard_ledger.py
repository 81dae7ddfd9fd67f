"""Write-once records of finished shards, found by fingerprint across runs and recipes.

A record whose files are missing or have another length counts as absent; the next one opens a new generation.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator import failpoints
from orchestrator.artifact import JSON, ArtifactKey
from orchestrator.artifacts.shard_records import StoredShard, shard_body, shard_from_bytes, shard_of_commit
from orchestrator.artifacts.shard_search import ShardSearch
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.errors import CorruptArtifactError, FencedError
from orchestrator.shards import RemoteFolder, ShardOutcome, ShardRecord
from orchestrator.store.attempt_folder import PARENTS, AttemptFolder, new_folder
from orchestrator.store.commits import (
    Commit,
    Decided,
    Head,
    abort,
    commit_all,
    commit_attempt,
    delete_attempt,
    head,
    read_outcome,
    retract,
    roll_forward,
)
from orchestrator.store.copies.local_copy import adopt_folder, readable_folder
from orchestrator.store.copies.verification import Problem, differences
from orchestrator.store.group_commit import sync_all
from orchestrator.store.layout import SHARDS, new_attempt_id, shard_site
from orchestrator.store.shard_packs import Packer
from orchestrator.store.store import Store
from orchestrator.store.store_identity import check_folders

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardLedger:
    """The shard records of one store. Can be pickled, so that workers record their own finished shards."""

    store: Store
    cache: Path
    holder: str = ""  # as in `ArtifactStore`

    @property
    def outputs(self) -> Path:
        """The folder on this machine that all outputs are below."""
        return self.store.local("") or self.cache

    def find(self, key: ArtifactKey) -> StoredShard | None:
        """The finished shard if its files all exist with the recorded lengths; otherwise None."""
        found = roll_forward(self.store, shard_site(key))
        if found.problem:
            log.warning("treated as absent, will be made again: %s", found.problem)
        if not found.commit:
            return None
        try:
            stored = shard_of_commit(key, found.commit)
        except CorruptArtifactError as error:
            log.warning("treated as absent, will be made again: %s", error)
            return None
        for problem in self._problems(stored, rehash=False):
            log.warning("treated as absent, will be made again: %s", problem)
            return None
        return stored

    def find_many(
        self, stage_kind: str, fingerprints: Iterable[str], packer: Packer | None = None
    ) -> dict[str, StoredShard]:
        """The finished ones of these shards, by fingerprint; see `ShardSearch.find`."""
        search = ShardSearch(store=self.store, stage_kind=stage_kind, find_one=self.find)
        return search.find(list(dict.fromkeys(fingerprints)), packer)

    def new_output(self, key: ArtifactKey, *, owner: str, in_group: bool = False) -> AttemptFolder:
        """An empty folder for a worker to write the shard's files into. `owner` is the id of the stage attempt.

        `in_group`: it will be recorded by `record_all`.
        """
        return new_folder(
            self.store,
            self.cache,
            site=shard_site(key),
            key=key,
            attempt=new_attempt_id(owner),
            durable=not in_group,
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
            body = {} if decided else shard_body(output.publish(), outcome, provenance)
            failpoints.hit("shard.files")
            winner = commit_attempt(self.store, site, generation=found.generation, attempt=own, epoch=epoch, body=body)
        stored = self._kept(output, winner)
        assert not isinstance(stored, Exception), "only a fence is an error"
        return stored

    def record_all(
        self,
        finished: Sequence[tuple[AttemptFolder, ShardOutcome]],
        *,
        provenance: Mapping[str, JSON],
        epoch: int = 0,
    ) -> list[StoredShard | Exception]:
        """`record` for many outputs of different shards, which become durable together; each with its own error."""
        if len(finished) == 1:
            return [self._record_one(*finished[0], provenance, epoch)]

        def prepare(entry: tuple[AttemptFolder, ShardOutcome]) -> Decided | Exception | None:
            try:
                return self._prepared(*entry, provenance, epoch)
            except Exception as error:  # noqa: BLE001 - the error of this output, for whoever made it
                return error

        threads = request_threads(is_local=self.store.is_local)
        prepared = list(parallel_map(prepare, finished, threads=threads))
        decided = [entry for entry in prepared if isinstance(entry, Decided)]
        winners = dict(zip((entry.attempt for entry in decided), commit_all(self.store, decided), strict=True))
        found: list[StoredShard | Exception] = []
        for (output, outcome), entry in zip(finished, prepared, strict=True):
            if isinstance(entry, Exception):
                found.append(entry)
            elif entry is None:
                found.append(self._record_one(output, outcome, provenance, epoch))
            else:
                found.append(self._kept(output, winners[output.attempt_id]))
        return found

    def _prepared(
        self, output: AttemptFolder, outcome: ShardOutcome, provenance: Mapping[str, JSON], epoch: int
    ) -> Decided | None:
        """The commit of an output at a shard that nobody has tried before; None if somebody has."""
        site, own = output.site, output.attempt_id
        if self.store.get(site.commit_key(0)) is not None or self.store.folders(site.attempts) not in ((), (own,)):
            return None
        body = shard_body(output.seal(), outcome, provenance)
        failpoints.hit("shard.files")
        return Decided(site=site, generation=0, attempt=own, epoch=epoch, body=body, written=output.written)

    def _record_one(
        self, output: AttemptFolder, outcome: ShardOutcome, provenance: Mapping[str, JSON], epoch: int
    ) -> StoredShard | Exception:
        try:
            root = self.store.local("")
            if root is not None:
                sync_all(root, output.written, at_least=PARENTS)  # the folders above it too
            return self.record(output, outcome, provenance=provenance, epoch=epoch)
        except Exception as error:  # noqa: BLE001 - the error of this output, for whoever made it
            return error

    def _kept(self, output: AttemptFolder, winner: Commit | FencedError) -> StoredShard | Exception:
        if isinstance(winner, FencedError):
            return winner
        if winner.attempt == output.attempt_id:
            self._keep_local(output)
        else:
            delete_attempt(self.store, output.site, output.attempt_id)
            output.remove()
        if winner.data:  # of the attempt that won just now, or read back
            return shard_from_bytes(output.key, winner.generation, winner.data)
        return shard_of_commit(output.key, winner)

    def abort(self, output: AttemptFolder, *, reason: str) -> None:
        """Abort an output and delete its files, e.g. because the worker failed."""
        if abort(self.store, output.site, output.attempt_id, reason=reason):
            delete_attempt(self.store, output.site, output.attempt_id)
            output.remove()

    def fetch(self, stored: StoredShard, names: Collection[str] | None = None) -> Path:
        """A local folder with the shard's files, or these of them; from a remote store they are downloaded once.

        Raises:
            CorruptArtifactError: the files are damaged.
        """
        files = [file for file in stored.files if names is None or file.path in names]
        return readable_folder(self.store, self.cache, stored.data_key, files, self.holder)

    def to_record(self, stored: StoredShard, *, shard: str, reused: bool) -> ShardRecord:
        """The shard as a stage sees it. Its files are downloaded where they are read."""
        here = self.store.local(stored.data_key)
        return ShardRecord(
            shard=shard,
            fingerprint=stored.key.fingerprint,
            path=here or RemoteFolder(self.cache / stored.data_key, partial(self.fetch, stored)),
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
            return self._problems(shard_of_commit(key, found.commit), rehash=True) if found.commit else []
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
        for stage_kind in self.store.folders(SHARDS):
            yield from ShardSearch(store=self.store, stage_kind=stage_kind, find_one=self.find).all()

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
                adopt_folder(self.cache, output.site.data_key(output.attempt_id), output.data)
            output.remove()


def _problem(key: ArtifactKey, path: str, found: str, expected: str) -> Problem:
    return Problem(stage_kind=key.stage_kind, fingerprint=key.fingerprint, path=path, found=found, expected=expected)
