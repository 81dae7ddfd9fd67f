"""Finds and deletes what stages and runs that nobody continues have left: committed, so no garbage, but of no use.

- checkpoints of a training whose artifact was never committed, or was retracted;
- shards that no artifact contains;
- plans of runs that ended, are not the newest of their recipe, and made nothing that still exists (else `illume trace`
  and takedowns read them);
- what jobs and controllers wrote to each other, after the attempt has ended;
- records of use that claim nothing any more;
- packs of shard records of which none counts any more.

Rule: an item goes only at a stated age, if nothing claims it (see `claims.py`) and no attempt at it may be alive. Both
are looked at when it is found and again right before it is deleted.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.backends.objects import StoredObject
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, runs
from orchestrator.history.open_attempts import OPEN
from orchestrator.liveness.liveness import Liveness
from orchestrator.retention.claims import Claims
from orchestrator.retention.garbage import DeletionReport, Garbage, Reason, has_open_attempt
from orchestrator.retention.shard_batches import batches, committed_files, delete_attempts, retract_shards, stale_packs
from orchestrator.retention.unneeded import check_complete
from orchestrator.store.commits import delete_attempt, head, retract, roll_forward
from orchestrator.store.deletion import delete_objects
from orchestrator.store.layout import (
    ARTIFACTS,
    PLANS,
    RUNS,
    USES,
    Site,
    artifact_site,
    checkpoint_site,
    checkpoint_steps,
    owner_of,
    shard_site,
    stored_keys,
)
from orchestrator.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """The leftovers of one store. `is_live`: stage attempt id -> whether it may still be working.

    `awaited`: (training, step) of checkpoints that others will continue from, see `restarts.awaited_restarts`.
    """

    artifacts: ArtifactStore
    liveness: Liveness
    is_live: Callable[[str], bool]
    awaited: Collection[tuple[ArtifactKey, int]] = ()

    def find(self, *, now_s: float, older_than_s: float) -> list[Garbage]:
        """Everything that can be deleted now. Deletes nothing.

        Raises:
            DatabaseError: the database does not know all runs of the store, so it is unknown what they need.
            CorruptArtifactError, NewerFormatError: a record of use cannot be read.
        """
        check_complete(self._store, self._database)
        claims, before_s = self._claims, now_s - older_than_s
        found = [*self._trainings(claims, before_s), *self._shards(claims, before_s)]
        found += self._records(PLANS, "plan", before_s, self._plan_check())
        found += self._records(RUNS, "mail", before_s, self._mail_check())
        packs = stale_packs(self._store, before_s=before_s)
        found += [Garbage(reason="pack", key=item.key, files=1, bytes=item.bytes) for item in packs]
        return [*found, *self._records(USES, "use", before_s, self._use_check(claims))]

    def delete(self, leftovers: Sequence[Garbage]) -> DeletionReport:
        """Delete what `find` found, after checking each item again. Can be interrupted and repeated.

        Raises: as `find`; StoreError: the store failed; the rest is found again next time.
        """
        claims, items, freed, kept, retained = self._claims, 0, 0, list[str](), list[str]()
        for lot in batches([item for item in leftovers if item.reason == "shard"]):
            going = self._retracted(claims, lot)
            deleted = delete_attempts(self._store, [(item.site, item.attempt) for item in going if item.site])
            freed += deleted.bytes
            retained += deleted.retained
            items += len(going)
            kept += sorted({item.key for item in lot} - {item.key for item in going})
        for item in leftovers:
            if item.reason == "shard":
                continue
            if not self._can_go(claims, item):
                kept.append(item.key)
                continue
            items += 1
            if item.site:
                deleted = delete_attempt(self._store, item.site, item.attempt)
            else:
                found = StoredObject(key=item.key, bytes=item.bytes, modified_s=0.0)
                deleted = delete_objects(self._store, [found])
            freed += deleted.bytes
            retained += deleted.retained
        return DeletionReport(items=items, bytes=freed, kept=tuple(kept), retained=tuple(retained))

    @property
    def _store(self) -> Store:
        return self.artifacts.store

    @property
    def _database(self) -> Database:
        return self.liveness.database

    @property
    def _claims(self) -> Claims:
        return Claims(self.liveness)

    def _can_go(self, claims: Claims, item: Garbage) -> bool:
        """Whether an item can be deleted; what was committed is retracted first, and its use is looked at once more."""
        if item.site is None:
            return item.reason != "plan" or self._plan_check()(item.key)  # what has ended does not begin again
        key = item.site.key
        if self._is_trained(claims.of_artifacts(), key) or has_open_attempt(self._store, key):
            return False
        found = roll_forward(self._store, item.site)
        if not found.commit or found.commit.attempt != item.attempt or self.is_live(owner_of(item.attempt)):
            return False
        retract(self._store, item.site, found.generation, reason=f"{item.reason} that no run needs")
        return not has_open_attempt(self._store, key)

    def _retracted(self, claims: Claims, lot: Sequence[Garbage]) -> list[Garbage]:
        """Retract the shards of a lot that nothing claims; those that nobody had begun to use before that."""
        is_claimed = claims.of_shards()
        free = [item for item in lot if item.site and not is_claimed(item.site.key)]
        free = [item for item in free if not self.is_live(owner_of(item.attempt))]
        sites = [(item.site, item.generation) for item in free if item.site and item.generation is not None]
        retract_shards(self._store, sites, reason="shard that no run needs")
        used = claims.uses.shards_in_use()
        return [item for item in free if item.site and item.site.key not in used]

    def _trainings(self, claims: Claims, before_s: float) -> Iterator[Garbage]:
        """The checkpoints of a training go together, once the newest is old enough."""
        is_claimed = claims.of_artifacts()
        for key in stored_keys(self._store, ARTIFACTS):
            steps = checkpoint_steps(self._store, key)
            if not steps or self._is_trained(is_claimed, key) or self._has_live_attempt(key):
                continue
            sites = [checkpoint_site(key, step) for step in steps if (key, step) not in self.awaited]
            found = [item for site in sites for item in self._committed(site, "training", float("inf"))]
            if all(_newest_s(self._store, item) <= before_s for item in found):
                yield from found

    def _is_trained(self, is_claimed: Callable[[ArtifactKey], bool], key: ArtifactKey) -> bool:
        """Whether the artifact exists, or a run may continue to make it. Its checkpoints are no leftovers then."""
        found = head(self._store, artifact_site(key))
        return bool(found.commit or found.problem) or is_claimed(key)

    def _has_live_attempt(self, key: ArtifactKey) -> bool:
        return any(self.is_live(attempt) for attempt in self._store.folders(artifact_site(key).attempts))

    def _shards(self, claims: Claims, before_s: float) -> Iterator[Garbage]:
        contained, unreadable = self._contained_shards()
        is_claimed = claims.of_shards()
        for shard, attempt, files in committed_files(self._store, skip=lambda key: key in contained):
            if shard.key.stage_kind in unreadable or is_claimed(shard.key) or self.is_live(owner_of(attempt)):
                continue
            if max(file.modified_s for file in files) <= before_s:
                yield Garbage(
                    reason="shard",
                    key=shard_site(shard.key).attempt_key(attempt),
                    files=len(files),
                    bytes=sum(file.bytes for file in files),
                    site=shard_site(shard.key),
                    attempt=attempt,
                    generation=shard.generation,
                )

    def _contained_shards(self) -> tuple[set[ArtifactKey], set[str]]:
        """The shards of all artifacts, and the stage kinds of artifacts of which that is unknown."""
        manifests = {stored.manifest.key: stored.manifest for stored in self.artifacts.all()}
        shards = {ArtifactKey(key.stage_kind, shard) for key, found in manifests.items() for shard in found.shards}
        unreadable = set()
        for key in stored_keys(self._store, ARTIFACTS):
            found = head(self._store, artifact_site(key))
            if key not in manifests and (found.commit or found.problem):
                unreadable.add(key.stage_kind)
        return shards, unreadable

    def _committed(self, site: Site, reason: Reason, before_s: float) -> Iterator[Garbage]:
        found = roll_forward(self._store, site)
        files = list(self._store.list(site.attempt_key(found.commit.attempt))) if found.commit else []
        if found.commit and files and max(file.modified_s for file in files) <= before_s:
            yield Garbage(
                reason=reason,
                key=site.attempt_key(found.commit.attempt),
                files=len(files),
                bytes=sum(file.bytes for file in files),
                site=site,
                attempt=found.commit.attempt,
            )

    # Single records.

    def _records(
        self, prefix: str, reason: Reason, before_s: float, is_over: Callable[[str], bool]
    ) -> Iterator[Garbage]:
        for item in self._store.list(prefix):
            if item.modified_s <= before_s and is_over(item.key):
                yield Garbage(reason=reason, key=item.key, files=1, bytes=item.bytes)

    def _plan_check(self) -> Callable[[str], bool]:
        """Whether the plan at a key is of no run that may be resumed or has made an artifact that exists."""
        resumable = self._claims.resumable_runs()
        query = select(runs.c.run_id, runs.c.plan_digest)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        makers = {str(stored.manifest.provenance.get("run", "")) for stored in self.artifacts.all()}
        needed = {row.plan_digest for row in rows if row.run_id in resumable or row.run_id in makers}
        _, unreadable = self._contained_shards()
        return lambda key: (
            not unreadable and key.endswith(".json") and key.rpartition("/")[2].removesuffix(".json") not in needed
        )

    def _mail_check(self) -> Callable[[str], bool]:
        """Whether the object at a key is of a job whose attempt has ended. Those of unknown attempts stay."""
        query = select(attempts.c.attempt_id).where(attempts.c.state.not_in(OPEN))
        ended = self._database.read(lambda connection: set(connection.execute(query).scalars()))

        def is_over(key: str) -> bool:
            match key.split("/"):
                case [_, _, "jobs", attempt, _, *_]:
                    return attempt in ended and not self.is_live(attempt)
            return False

        return is_over

    def _use_check(self, claims: Claims) -> Callable[[str], bool]:
        resumable = claims.resumable_runs()
        over = {use.record_key for use in claims.uses.all() if claims.is_over(use, resumable)}
        return lambda key: key in over


def _newest_s(store: Store, item: Garbage) -> float:
    return max(file.modified_s for file in store.list(item.key))
