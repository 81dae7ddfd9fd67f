"""Small shards run in groups: one call runs several, which are recorded together.

A group takes about as long as a call is worth; its shards become durable meanwhile (`batch_recorder.py`), so that a
process which is lost takes little work with it. After a failure that concerns the whole call, each of its shards that
is not on record runs by itself: a death has one suspect again.
"""

from dataclasses import dataclass, replace

from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.shard_map.pending import WorkItem
from orchestrator.shard_map.shard_host import ShardRequest
from orchestrator.shard_map.work_queue import WorkQueue
from orchestrator.shard_map.worker_pool import CallResult
from orchestrator.shards import RemoteFolder

GROUP_S = 1.0  # that a group should take; a shard of more than half of it runs by itself
MAX_GROUP = 512  # shards
MEMORY = 0.3  # weight of the newest call in the mean time of a shard


@dataclass
class Grouping:
    """Knows how long the shards of a map take."""

    seconds: float | None = None  # mean of a shard, with its record; None: nothing is known

    def note(self, new: float) -> None:
        """Note how long a shard took."""
        self.seconds = new if self.seconds is None else MEMORY * new + (1 - MEMORY) * self.seconds

    def join(self, first: WorkItem, queue: WorkQueue, *, num_processes: int) -> WorkItem:
        """The next call: `first`, with those of the queue after it that may run in the same call."""
        if not _may_join(first):
            return first
        group, size = [first], self._size(len(queue) + 1, num_processes)
        while len(group) < size and queue.first is not None and _may_join(queue.first):
            group.append(queue.pop())
        if len(group) == 1:
            return first
        return WorkItem(mode="group", pending=first.pending, positions=first.positions, group=tuple(group))

    def _size(self, num_ready: int, num_processes: int) -> int:
        """Not more than leaves two calls for each process, so that all end at about the same time."""
        if self.seconds is None:
            return 1
        fair = -(-num_ready // (2 * num_processes))
        return max(1, min(MAX_GROUP, fair, int(GROUP_S / max(self.seconds, 1e-6))))


def _may_join(work_item: WorkItem) -> bool:
    return work_item.mode == "shard" and work_item.pending.is_fresh and not work_item.avoid


def call_of(work_item: WorkItem) -> tuple[str, object]:
    """The method of `ShardHost` that runs it, and its argument."""
    match work_item.mode:
        case "group":
            return "run_group", tuple(_request(member) for member in work_item.group)
        case "shard":
            return "run", _request(work_item)
    return "run_trial", _request(work_item)


def _request(work_item: WorkItem) -> ShardRequest:
    pending, shard = work_item.pending, work_item.pending.shard
    return ShardRequest(
        name=shard.name,
        fingerprint=pending.fingerprint,
        items=tuple(shard.items[position] for position in work_item.positions),
        work=shard.work,
        quarantined=pending.quarantined,
        reads=tuple(record.folder for record in shard.reads if isinstance(record.folder, RemoteFolder)),
    )


def results_of(result: CallResult[WorkItem]) -> list[CallResult[WorkItem]]:
    """The result of each shard of a group that was run; any other result as it is."""
    if result.key is None or not isinstance(result.outcome, tuple):
        return [result]
    seconds = result.seconds / len(result.key.group)
    return [
        replace(
            result,
            key=member,
            outcome=answer if isinstance(answer, StoredShard) else None,
            error=None if isinstance(answer, StoredShard) else answer,
            seconds=seconds,
        )
        for member, answer in zip(result.key.group, result.outcome, strict=True)
    ]
