"""Which shards run together, and what becomes of a group of which one fails or whose process is lost."""

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.failures.classes import FailureReport
from orchestrator.failures.failure_class import FailureClass
from orchestrator.shard_map.groups import GROUP_S, MAX_GROUP, Grouping, call_of, results_of
from orchestrator.shard_map.pending import PendingShard, WorkItem
from orchestrator.shard_map.work_queue import WorkQueue
from orchestrator.shard_map.worker_pool import CallResult
from orchestrator.shards import Shard, ShardOutcome
from orchestrator.store.commits import Commit


def item(number: int, mode: str = "shard", **state: int) -> WorkItem:
    shard = Shard(name=f"s{number}", items=(number,))
    pending = PendingShard(shard=shard, fingerprint=f"{number:064x}", remaining=(0,), **state)  # type: ignore[arg-type]  # flags
    return WorkItem(mode=mode, pending=pending, positions=(0,))  # type: ignore[arg-type]  # one of the modes


def ready(*work_items: WorkItem) -> WorkQueue:
    queue = WorkQueue()
    for work_item in work_items:
        queue.push(work_item)
    return queue


def joined(grouping: Grouping, *work_items: WorkItem, processes: int = 1) -> list[str]:
    rest = ready(*work_items[1:])
    call = grouping.join(work_items[0], rest, num_processes=processes)
    assert len(rest) + max(1, len(call.group)) == len(work_items)
    return [member.pending.shard.name for member in call.group or (call,)]


def test_nothing_is_joined_before_a_shard_has_worked() -> None:
    assert joined(Grouping(), *map(item, range(9))) == ["s0"]


def test_a_group_takes_as_long_as_it_should() -> None:
    grouping = Grouping()
    grouping.note(GROUP_S / 4)
    assert joined(grouping, *map(item, range(90))) == ["s0", "s1", "s2", "s3"]
    grouping.note(GROUP_S * 10)
    assert joined(grouping, *map(item, range(90))) == ["s0"]


@pytest.mark.parametrize(("shards", "processes", "expected"), [(2000, 1, MAX_GROUP), (100, 2, 25), (5, 4, 1)])
def test_all_processes_get_their_share(shards: int, processes: int, expected: int) -> None:
    grouping = Grouping(seconds=0.0001)
    assert len(joined(grouping, *map(item, range(shards)), processes=processes)) == expected


@pytest.mark.parametrize("state", ["deaths", "infra_failures", "unknown_failures", "bisections", "alone"])
def test_a_shard_that_has_failed_runs_by_itself(state: str) -> None:
    grouping = Grouping(seconds=0.0001)
    assert joined(grouping, item(0, **{state: 1}), item(1), item(2)) == ["s0"]
    assert joined(grouping, item(0), item(1), item(2, **{state: 1}), *map(item, range(3, 9))) == ["s0", "s1"]


def test_trials_are_joined_to_nothing() -> None:
    assert joined(Grouping(seconds=0.0001), item(0, "trial"), *map(item, range(1, 9))) == ["s0"]


def test_a_group_is_one_call_with_a_request_for_each() -> None:
    group = Grouping(seconds=0.0001).join(item(0), ready(*map(item, range(1, 6))), num_processes=1)
    method, requests = call_of(group)
    assert method == "run_group"
    assert [request.items for request in requests] == [(0,), (1,), (2,)]  # type: ignore[attr-defined]  # a tuple
    assert call_of(item(4))[0] == "run"
    assert call_of(item(4, "trial"))[0] == "run_trial"


def test_each_shard_of_a_group_has_its_own_result() -> None:
    group = WorkItem(mode="group", pending=item(0).pending, positions=(0,), group=(item(0), item(1)))
    commit = Commit(generation=0, attempt="a", epoch=1, committed_s=0.0, record={})
    key = ArtifactKey("curate", "0" * 64)
    stored = StoredShard(key=key, files=(), outcome=ShardOutcome(rows=1), provenance={}, commit=commit)
    report = FailureReport(failure=FailureClass.USER_CODE, summary="bad", place="", traceback="")
    first, second = results_of(CallResult(key=group, outcome=(stored, report), seconds=3.0, process=7))
    assert (first.key, first.outcome, first.error, first.seconds) == (group.group[0], stored, None, 1.5)
    assert (second.key, second.outcome, second.error, second.process) == (group.group[1], None, report, 7)
    lost = CallResult(key=group, outcome=None, error=report, died=True)
    assert results_of(lost) == [lost]
