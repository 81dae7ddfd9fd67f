"""Retracts what a takedown taints, at once and even if pinned, and finds the files that are left to delete.

Models that were trained on it are not deleted: they are marked, and no plan uses them.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.retention.garbage import Garbage, find_garbage_at
from orchestrator.retention.pins import pins, unpin
from orchestrator.store.commits import head, retract, roll_forward
from orchestrator.store.layout import Site, artifact_site, shard_site


def retract_tainted(artifacts: ArtifactStore, takedown: Takedown) -> None:
    """Retract tainted shards and artifacts, and delete their local copies. Can be interrupted and repeated."""
    store, reason = artifacts.store, f"takedown {takedown.id}"
    pinned = set(pins(store))

    def retract_tainted_shard(key: ArtifactKey) -> None:
        site = shard_site(key)
        found = roll_forward(store, site)
        if found.commit or found.problem:
            retract(store, site, found.generation, reason=reason)

    threads = request_threads(is_local=store.is_local)
    for _ in parallel_map(retract_tainted_shard, takedown.shards, threads=threads):
        pass
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


def tainted_folders(takedown: Takedown) -> list[str]:
    """Keys of the folders with all that there is, or was, of tainted shards and artifacts."""
    return [site.attempts.removesuffix("/attempts") for site in _sites(takedown)]


def unretracted_records(artifacts: ArtifactStore, takedown: Takedown) -> list[str]:
    """Keys of commit records of tainted shards and artifacts that are not retracted."""

    def committed(site: Site) -> list[str]:
        found = head(artifacts.store, site)
        return [site.commit_key(found.generation)] if found.commit else []

    threads = request_threads(is_local=artifacts.store.is_local)
    return [key for keys in parallel_map(committed, _sites(takedown), threads=threads) for key in keys]


def _sites(takedown: Takedown) -> Iterator[Site]:
    for key in takedown.shards:
        yield shard_site(key)
    for artifact in takedown.tainted:
        if not artifact.is_kept:
            yield artifact_site(artifact.key)
