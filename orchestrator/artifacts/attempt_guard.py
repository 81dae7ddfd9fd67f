"""The guard before every write of a stage attempt, and taking over from the attempts before it.

Rule: nothing is written for an attempt that has ended. The guard is asked right before each write, and again between
retracting a record and deleting its files; what passes it too late is sorted out by the fence (see `store/fences.py`).
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from orchestrator.artifact import JSON, ArtifactKey
from orchestrator.artifacts.takedowns import TAKEDOWNS, check_no_new_takedown
from orchestrator.attempt_id import AttemptId
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.errors import CorruptArtifactError, FencedError
from orchestrator.store.commits import abort, read_commit, read_outcome, retractions, roll_forward
from orchestrator.store.fences import put_fence, read_fence
from orchestrator.store.layout import Site, artifact_site, checkpoint_site, checkpoint_steps, owner_of
from orchestrator.store.store import Store, read_record
from orchestrator.store.store_identity import check_on_this_node

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AttemptGuard:
    """Refuses the writes of an attempt that has ended. Can be pickled: every process of the attempt has a copy."""

    store: Store
    key: ArtifactKey  # of the artifact that the attempt makes
    attempt: AttemptId
    payload: Mapping[str, JSON] | None = None  # the identity: refuse once an unknown takedown concerns it
    known_takedowns: tuple[str, ...] = ()
    store_id: str = ""  # of `STORE.json` as the driver sees it; empty if it has none

    def check_node(self) -> None:
        """Raises: UnreachableStoreError: this node does not see the store, so files would go nowhere."""
        check_on_this_node(self.store, self.store_id)

    def check(self) -> None:
        """Reads of the store. Raises: FencedError: the attempt was aborted, has committed, or met a takedown.

        UnreachableStoreError: this node does not see the store.
        """
        self.check_node()
        decided = read_outcome(self.store, artifact_site(self.key), self.attempt.name)
        if decided is None:
            self._check_takedowns()
            return
        end = "has committed already" if decided.kind == "COMMIT" else f"was aborted ({decided.reason})"
        raise FencedError(f"{self.store.url}: attempt '{self.attempt}' {end}; this process of it writes nothing more")

    def _check_takedowns(self) -> None:
        if self.payload is None:
            return
        if len(list(self.store.list(TAKEDOWNS))) > len(self.known_takedowns):
            check_no_new_takedown(self.store, self.known_takedowns, self.payload, self.key.fingerprint)

    def take_over(self) -> None:
        """Abort every other attempt at the artifact that has not ended, and fence all that were aborted.

        Raises: FencedError: this attempt has ended, or its run has started a newer one.
        """
        self.check()
        site = artifact_site(self.key)
        self._refuse_if_superseded(site)
        for other in {*self.store.folders(site.attempts), *self._owners_of_checkpoints()} - {self.attempt.name}:
            if read_outcome(self.store, site, other) is None:
                log.warning("attempt %s takes over from attempt %s, which is aborted", self.attempt, other)
                abort(self.store, site, other, reason=f"attempt {self.attempt} took over")
        self.fence_aborted()

    def fence_aborted(self) -> None:
        """Write the missing fences of attempts that were aborted, so that what they write from now on never counts."""
        site = artifact_site(self.key)
        missing = [name for name in self.store.folders(site.attempts) if self._lacks_fence(site, name)]
        if not missing:
            return
        records = list(self._checkpoint_records())
        for name in missing:
            put_fence(self.store, site.attempts, name, (key for key, owner in records if owner == name))

    def _lacks_fence(self, site: Site, name: str) -> bool:
        decided = None if name == self.attempt.name else read_outcome(self.store, site, name)
        if decided is None or decided.kind == "COMMIT":
            return False
        return read_fence(self.store, site.attempts, name) is None

    def _refuse_if_superseded(self, site: Site) -> None:
        for name in self.store.folders(site.attempts):
            claim = self._claim(site, name)
            if claim is None or claim.get("run") != self.attempt.run_id:
                continue
            epoch = claim.get("epoch")
            if type(epoch) is int and epoch > self.attempt.epoch:
                raise FencedError(
                    f"{self.store.url}: {site.claim_key(name)}: epoch {epoch} of run {self.attempt.run_id} has started "
                    f"attempt '{name}'; attempt '{self.attempt}' of epoch {self.attempt.epoch} does not begin"
                )

    def _claim(self, site: Site, name: str) -> dict[str, JSON] | None:
        try:
            return read_record(self.store, site.claim_key(name))
        except CorruptArtifactError as error:
            log.warning("ignored: %s", error)
            return None

    def _owners_of_checkpoints(self) -> set[str]:
        return {owner for _, owner in self._checkpoint_records() if owner}

    def _checkpoint_records(self) -> Iterator[tuple[str, str]]:
        """(key, stage attempt that wrote it) of all commit records and retractions of checkpoints."""
        steps = checkpoint_steps(self.store, self.key)
        for found in parallel_map(self._records_of_step, steps, threads=request_threads(is_local=self.store.is_local)):
            yield from found

    def _records_of_step(self, step: int) -> list[tuple[str, str]]:
        site, found = checkpoint_site(self.key, step), list[tuple[str, str]]()
        roll_forward(self.store, site)  # what a crash interrupted counts
        for generation in count():
            try:
                commit = read_commit(self.store, site, generation)
            except CorruptArtifactError:
                found.append((site.commit_key(generation), ""))
            else:
                if commit is None:
                    return found
                found.append((site.commit_key(generation), owner_of(commit.attempt)))
            found += retractions(self.store, site, generation)
        raise AssertionError("unreachable: the count of generations does not end")


def is_known(store: Store, key: ArtifactKey, attempt: str) -> bool:
    """Whether an attempt has left any trace at its artifact, e.g. its claim."""
    return attempt in store.folders(artifact_site(key).attempts)
