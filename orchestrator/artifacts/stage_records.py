"""The durable records of one stage fingerprint beside its artifact: how far they reach, withdrawing them."""

from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.store.commits import retract, roll_forward
from orchestrator.store.layout import Site, checkpoint_site, checkpoint_steps, shard_site
from orchestrator.store.store import Store


def newest_checkpoint_step(store: Store, stage_kind: str, fingerprint: str) -> int | None:
    """Of the committed checkpoints, without reading their files."""
    for step in reversed(checkpoint_steps(store, stage_kind, fingerprint)):
        if roll_forward(store, checkpoint_site(stage_kind, fingerprint, step)).commit:
            return step
    return None


def withdraw(artifacts: ArtifactStore, stage_kind: str, fingerprint: str, *, run_id: str, reason: str) -> None:
    """Retract an artifact with its shards and checkpoints, so that the stage is made again from nothing.

    What the run itself made stays, so this may be repeated after a crash, and at any time during the run.
    """
    store = artifacts.store
    stored = artifacts.stored(stage_kind, fingerprint)
    if stored is not None and _is_made_by(run_id, stored.commit.attempt):
        return
    for step in checkpoint_steps(store, stage_kind, fingerprint):
        _withdraw_site(store, checkpoint_site(stage_kind, fingerprint, step), run_id, reason)
    if stored is None:
        return
    for shard in stored.manifest.shards:
        _withdraw_site(store, shard_site(stage_kind, shard), run_id, reason)
    artifacts.retract(stage_kind, fingerprint, reason=reason)  # last: it is what names the shards


def _withdraw_site(store: Store, site: Site, run_id: str, reason: str) -> None:
    found = roll_forward(store, site)
    if found.commit and not _is_made_by(run_id, found.commit.attempt):
        retract(store, site, found.generation, reason=reason)


def _is_made_by(run_id: str, attempt_id: str) -> bool:
    return attempt_id.startswith(f"{run_id}-")
