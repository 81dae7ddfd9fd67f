"""What a map is told: the settings of its stage, and the resources and callbacks that it uses."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifact import JSON
from orchestrator.artifacts.attempt_guard import AttemptGuard
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.logs.worker_log import WorkerLogs
from orchestrator.shard_map.shard_host import HostSettings
from orchestrator.shard_map.worker_pool import IdleWorkers
from orchestrator.stage import Resources, RetryPolicy, Tracker


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    stage_kind: str
    attempt: AttemptId
    version: int
    label: str
    identity: Mapping[str, JSON]
    resources: Resources
    retry: RetryPolicy
    scratch: Path
    logs: WorkerLogs | None = None  # see `HostSettings`
    memory_halvings: int = 0
    unit: str = "items"
    takedowns: Sequence[Takedown] = ()
    guard: AttemptGuard | None = None  # see `HostSettings`


@dataclass(frozen=True, kw_only=True)
class MapTools:
    """The resources and callbacks that a map uses."""

    cluster: Cluster
    ledger: ShardLedger
    tracker: Tracker
    stop_requested: Callable[[], bool]
    on_recorded: Callable[[StoredShard], None]  # called for each shard right after its record is durable
    rng: random.Random  # of the back-off only
    idle_workers: IdleWorkers  # processes shared by the attempt's maps, one after the other
    # Called with the fingerprints of all shards before they are looked for; a map outside of attempts records nothing.
    record_use: Callable[[Sequence[str]], None] = lambda _fingerprints: None


def host_settings(settings: MapSettings, ledger: ShardLedger) -> HostSettings:
    """What the map's worker processes are told."""
    return HostSettings(
        ledger=ledger,
        stage_kind=settings.stage_kind,
        attempt=settings.attempt,
        hang_after_s=settings.retry.hang_after_s,
        scratch=settings.scratch,
        logs=settings.logs,
        guard=settings.guard,
    )
