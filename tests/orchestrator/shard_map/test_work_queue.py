from typing import Literal

import pytest

from orchestrator.shard_map.pending import PendingShard, WorkItem
from orchestrator.shard_map.work_queue import WorkQueue
from orchestrator.shards import Shard


def item(name: str, mode: Literal["shard", "group", "trial", "probe", "step"] = "shard") -> WorkItem:
    pending = PendingShard(shard=Shard(name=name, items=(0,)), fingerprint=name, remaining=(0,))
    return WorkItem(mode=mode, pending=pending, positions=(0,))


def names(queue: WorkQueue) -> list[str]:
    return [queue.pop().pending.fingerprint for _ in range(len(queue))]


def test_trials_and_probes_go_before_whole_shards_and_each_in_its_order() -> None:
    queue = WorkQueue()
    for entry in (item("a"), item("b"), item("c", "trial"), item("d", "probe")):
        queue.push(entry)
    assert queue.first is not None
    assert queue.first.mode == "trial"
    assert names(queue) == ["c", "d", "a", "b"]
    assert queue.first is None
    with pytest.raises(IndexError):
        queue.pop()


def test_what_is_put_back_is_the_next_of_its_sort() -> None:
    queue = WorkQueue()
    for name in "abc":
        queue.push(item(name))
    queue.push(item("t", "trial"))
    trial, first = queue.pop(), queue.pop()
    queue.put_back(first)
    queue.put_back(trial)
    assert names(queue) == ["t", "a", "b", "c"]


def test_an_item_that_waits_is_not_ready_before_its_time() -> None:
    queue = WorkQueue()
    queue.push(item("late"), wait_s=3600.0)
    queue.push(item("soon"), wait_s=1e-9)
    queue.take_due()
    assert names(queue) == ["soon"]
