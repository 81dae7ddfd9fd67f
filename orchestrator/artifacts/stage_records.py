"""All records of one stage together: the newest checkpoint step, shards of an attempt, and retracting everything."""

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.store.commits import read_outcome, retract, roll_forward
from orchestrator.store.fences import Fences
from orchestrator.store.layout import (
    Site,
    artifact_site,
    checkpoint_site,
    checkpoint_steps,
    owner_of,
    shard_site,
)
from orchestrator.store.shard_listing import list_shards
from orchestrator.store.store import Store


def newest_checkpoint_step(store: Store, key: ArtifactKey) -> int | None:
    """The newest step with a committed checkpoint, None if there is none; does not read the files."""
    fences = Fences(store, artifact_site(key).attempts)
    for step in reversed(checkpoint_steps(store, key)):
        if roll_forward(store, checkpoint_site(key, step), fences).commit:
            return step
    return None


def has_recorded_shards(store: Store, stage_kind: str, attempt: str) -> bool:
    """Whether the stage attempt recorded a shard. Lists the shards of the kind: for an attempt that left no outcome."""
    for shards in list_shards(store, stage_kind):
        made = ((shard.key, name) for shard in shards for name in shard.attempts if owner_of(name) == attempt)
        outcomes = (read_outcome(store, shard_site(key), name) for key, name in made)
        if any(outcome is not None and outcome.kind == "COMMIT" for outcome in outcomes):
            return True
    return False


def retract_stage(
    artifacts: ArtifactStore, key: ArtifactKey, *, run_id: str, reason: str, only_quarantined: bool = False
) -> None:
    """Retract an artifact with its shards and checkpoints, so that the stage is made again from the start.

    With `only_quarantined` the shards are kept in which no item was found to fail.

    Keeps what the run `run_id` made itself, so it may be repeated after a crash and at any time during the run.
    """
    store = artifacts.store
    stored = artifacts.stored(key)
    if stored is not None and _is_made_by(run_id, stored.commit.attempt):
        return
    for step in checkpoint_steps(store, key):
        _retract_site(store, checkpoint_site(key, step), run_id, reason)
    if stored is None:
        return
    shards = list(stored.manifest.shards)
    if only_quarantined:
        found = ShardLedger(store, artifacts.cache).find_many(key.stage_kind, shards)
        shards = [shard for shard in shards if shard not in found or _has_failed_items(found[shard])]

    def retract_shard(shard: str) -> None:
        _retract_site(store, shard_site(ArtifactKey(key.stage_kind, shard)), run_id, reason)

    for _ in parallel_map(retract_shard, shards, threads=request_threads(is_local=store.is_local)):
        pass
    artifacts.retract(key, reason=reason)  # last: its manifest lists the shards


def _has_failed_items(stored: StoredShard) -> bool:
    return any(entry.found_by != "stage" for entry in stored.outcome.quarantined)


def _retract_site(store: Store, site: Site, run_id: str, reason: str) -> None:
    found = roll_forward(store, site)
    if found.commit and not _is_made_by(run_id, found.commit.attempt):
        retract(store, site, found.generation, reason=reason)


def _is_made_by(run_id: str, attempt_id: str) -> bool:
    return attempt_id.startswith(f"{run_id}-")
