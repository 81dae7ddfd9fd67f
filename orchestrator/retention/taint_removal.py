"""Giving up what a takedown forbids, at once and whatever pins it, and finding the files that are left to delete.

Models that saw it are not deleted: they are marked, and no plan uses them.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence

from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.retention.garbage import Garbage, plan_deletion
from orchestrator.retention.pins import pins, unpin
from orchestrator.store.commits import head, retract, roll_forward
from orchestrator.store.layout import Site, artifact_site, shard_site


def give_up_tainted(artifacts: ArtifactStore, takedown: Takedown) -> None:
    """Retract the shards and artifacts that hold it, and delete local copies. Can be interrupted and repeated."""
    store, reason = artifacts.store, f"takedown {takedown.id}"
    pinned = set(pins(store))
    for stage_kind, fingerprint in takedown.shards:
        site = shard_site(stage_kind, fingerprint)
        found = roll_forward(store, site)
        if found.commit or found.problem:
            retract(store, site, found.generation, reason=reason)
    for one in takedown.tainted:
        if one.is_kept:
            continue
        artifacts.retract(one.stage_kind, one.fingerprint, reason=reason)
        if one.place in pinned:
            unpin(store, *one.place)
    for site in _sites(takedown):
        shutil.rmtree(artifacts.cache / site.attempts, ignore_errors=True)


def tainted_files(
    artifacts: ArtifactStore, takedowns: Sequence[Takedown], *, is_live: Callable[[str], bool]
) -> list[Garbage]:
    """Files of given up shards and artifacts that are still there; `collect` deletes them."""
    return plan_deletion(
        artifacts.store, (site for takedown in takedowns for site in _sites(takedown)), is_live=is_live
    )


def still_usable(artifacts: ArtifactStore, takedown: Takedown) -> list[str]:
    """Keys of commit records of things that hold it and were not given up."""
    heads = ((site, head(artifacts.store, site)) for site in _sites(takedown))
    return [site.commit_key(found.generation) for site, found in heads if found.commit]


def _sites(takedown: Takedown) -> Iterator[Site]:
    for stage_kind, fingerprint in takedown.shards:
        yield shard_site(stage_kind, fingerprint)
    for one in takedown.tainted:
        if not one.is_kept:
            yield artifact_site(one.stage_kind, one.fingerprint)
