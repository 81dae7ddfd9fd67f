"""Small shards run in groups: one call runs several, which are recorded together.

A group takes about as long as a call is worth; its shards become durable meanwhile (`batch_recorder.py`), so that a
process which is lost takes little work with it. After a failure that concerns the whole call, each of its shards that
is not on record runs by itself: a death has one suspect again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.shard_map.pending import PendingShard, WorkItem
from orchestrator.shard_map.shard_host import ShardRequest, TimedShard
from orchestrator.shard_map.work_queue import WorkQueue
from orchestrator.shard_map.worker_pool import CallResult
from orchestrator.shards import RemoteFolder

GROUP_S = 1.0  # of work in a group; a shard of more than half of it runs by itself
MIN_GROUP_S = 0.1  # of work, if each process has so much: at the end of a call it waits for the disk
MAX_GROUP = 512  # shards
MEMORY = 0.3  # weight of the newest call in the mean time of a shard


MadeShard = tuple[PendingShard, StoredShard, float]  # with its share of the seconds of its call


@dataclass
class Grouping:
    """Knows how long the shards of a map take."""

    seconds: float | None = None  # mean work on a shard; None: nothing is known

    def note(self, new: float) -> None:
        """Note how long the work on a shard took, without its record: on a slow disk, groups would get ever smaller."""
        self.seconds = new if self.seconds is None else MEMORY * new + (1 - MEMORY) * self.seconds

    def take_made(self, results: Sequence[CallResult[WorkItem]]) -> tuple[list[MadeShard], list[CallResult[WorkItem]]]:
        """The shards of groups in which all went well, which are noted, and the other results."""
        made, others = list[MadeShard](), list[CallResult[WorkItem]]()
        for result in results:
            parts = results_of(result)
            found = [
                (part.key.pending, part.outcome, part.seconds)
                for part in parts
                if part.key is not None and isinstance(part.outcome, StoredShard)
            ]
            if result.key is None or result.key.mode != "group" or len(found) < len(parts):
                others.append(result)
                continue
            made += found
            for part in parts:
                self.note(part.work_s)
        return made, others

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
        """Not more than leaves two calls for each process, so that all end at about the same time; but no tiny ones."""
        if self.seconds is None:
            return 1
        seconds = max(self.seconds, 1e-6)
        fair = -(-num_ready // (2 * num_processes))
        worth_a_call = min(int(MIN_GROUP_S / seconds), -(-num_ready // num_processes))
        return max(1, min(MAX_GROUP, max(fair, worth_a_call), int(GROUP_S / seconds)))


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
            outcome=answer.stored if isinstance(answer, TimedShard) else None,
            error=None if isinstance(answer, TimedShard) else answer,
            seconds=seconds,
            work_s=answer.work_s if isinstance(answer, TimedShard) else 0.0,
        )
        for member, answer in zip(result.key.group, result.outcome, strict=True)
    ]
