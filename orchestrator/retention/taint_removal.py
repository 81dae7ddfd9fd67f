"""Retracts what a takedown taints, at once and even if pinned, and finds the files that are left to delete.

Models that were trained on it are not deleted: they are marked, and no plan uses them.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence

from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.retention.garbage import Garbage, find_garbage_at
from orchestrator.retention.pins import pins, unpin
from orchestrator.store.commits import head, retract, roll_forward
from orchestrator.store.layout import Site, artifact_site, shard_site


def retract_tainted(artifacts: ArtifactStore, takedown: Takedown) -> None:
    """Retract tainted shards and artifacts, and delete their local copies. Can be interrupted and repeated."""
    store, reason = artifacts.store, f"takedown {takedown.id}"
    pinned = set(pins(store))
    for key in takedown.shards:
        site = shard_site(key)
        found = roll_forward(store, site)
        if found.commit or found.problem:
            retract(store, site, found.generation, reason=reason)
    for artifact in takedown.tainted:
        if artifact.is_kept:
            continue
        artifacts.retract(artifact.key, reason=reason)
        if artifact.key in pinned:
            unpin(store, artifact.key)
    for site in _sites(takedown):
        shutil.rmtree(artifacts.cache / site.attempts, ignore_errors=True)


def tainted_files(
    artifacts: ArtifactStore, takedowns: Sequence[Takedown], *, is_live: Callable[[str], bool]
) -> list[Garbage]:
    """Files of retracted shards and artifacts that still exist; `delete_garbage` deletes them."""
    return find_garbage_at(
        artifacts.store, (site for takedown in takedowns for site in _sites(takedown)), is_live=is_live
    )


def unretracted_records(artifacts: ArtifactStore, takedown: Takedown) -> list[str]:
    """Keys of commit records of tainted shards and artifacts that are not retracted."""
    heads = ((site, head(artifacts.store, site)) for site in _sites(takedown))
    return [site.commit_key(found.generation) for site, found in heads if found.commit]


def _sites(takedown: Takedown) -> Iterator[Site]:
    for key in takedown.shards:
        yield shard_site(key)
    for artifact in takedown.tainted:
        if not artifact.is_kept:
            yield artifact_site(artifact.key)
