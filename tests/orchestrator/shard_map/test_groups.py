"""Which shards run together, and what becomes of a group of which one fails or whose process is lost."""

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.failures.classes import FailureReport
from orchestrator.failures.failure_class import FailureClass
from orchestrator.shard_map.groups import GROUP_S, MAX_GROUP, MIN_GROUP_S, Grouping, call_of, results_of
from orchestrator.shard_map.pending import PendingShard, WorkItem
from orchestrator.shard_map.shard_host import TimedShard
from orchestrator.shard_map.work_queue import WorkQueue
from orchestrator.shard_map.worker_pool import CallResult
from orchestrator.shards import Shard, ShardOutcome
from orchestrator.store.commits import Commit


def item(number: int, mode: str = "shard", **state: int) -> WorkItem:
    shard = Shard(name=f"s{number}", items=(number,))
    pending = PendingShard(shard=shard, fingerprint=f"{number:064x}", remaining=(0,), **state)  # type: ignore[arg-type]  # flags
    return WorkItem(mode=mode, pending=pending, positions=(0,))  # type: ignore[arg-type]  # one of the modes


def stored() -> StoredShard:
    commit = Commit(generation=0, attempt="a", epoch=1, committed_s=0.0, record={})
    key = ArtifactKey("curate", "0" * 64)
    return StoredShard(key=key, files=(), outcome=ShardOutcome(rows=1), provenance={}, commit=commit)


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


@pytest.mark.parametrize(
    ("shards", "processes", "seconds", "expected"),
    [(2000, 1, 0.0001, MAX_GROUP), (100, 2, MIN_GROUP_S / 10, 25), (5, 4, MIN_GROUP_S, 1)],
)
def test_all_processes_get_their_share(shards: int, processes: int, seconds: float, expected: int) -> None:
    assert len(joined(Grouping(seconds=seconds), *map(item, range(shards)), processes=processes)) == expected


@pytest.mark.parametrize(("shards", "expected"), [(400, 100), (200, 100), (150, 75), (9, 5), (2, 1)])
def test_no_call_is_tiny_while_there_is_more_for_each_process(shards: int, expected: int) -> None:
    grouping = Grouping(seconds=MIN_GROUP_S / 100)
    assert len(joined(grouping, *map(item, range(shards)), processes=2)) == expected


@pytest.mark.parametrize("wait_s", [0.0, 0.05, 3.0])
def test_a_small_map_takes_few_calls_however_long_the_disk_takes(wait_s: float) -> None:
    grouping, queue, calls = Grouping(), ready(*map(item, range(1000))), 0
    while queue.first is not None:
        call = grouping.join(queue.pop(), queue, num_processes=2)
        members = call.group or (call,)
        answers = tuple(TimedShard(stored(), 0.001) for _ in members)
        outcome = answers if call.group else answers[0].stored
        result = CallResult(key=call, outcome=outcome, seconds=wait_s + 0.001 * len(members), work_s=0.001)
        made, others = grouping.take_made([result])
        assert [pending.shard.name for pending, _, _ in made] == [member.pending.shard.name for member in call.group]
        for other in others:
            grouping.note(other.work_s)
        calls += 1
    assert calls <= 14


def test_the_results_of_a_group_in_which_a_shard_failed_are_left_to_others() -> None:
    group = WorkItem(mode="group", pending=item(0).pending, positions=(0,), group=(item(0), item(1)))
    failed = FailureReport(failure=FailureClass.USER_CODE, summary="bad", place="", traceback="")
    results: list[CallResult[WorkItem]] = [
        CallResult(key=group, outcome=(TimedShard(stored(), 1.0), failed)),
        CallResult(key=group, outcome=None, error=failed, died=True),
        CallResult(key=item(0), outcome=stored()),
    ]
    grouping = Grouping()
    assert grouping.take_made(results) == ([], results)
    assert grouping.seconds is None


@pytest.mark.parametrize("state", ["deaths", "infra_failures", "unknown_failures", "bisections", "alone"])
def test_a_shard_that_has_failed_runs_by_itself(state: str) -> None:
    grouping = Grouping(seconds=0.0001)
    assert joined(grouping, item(0, **{state: 1}), item(1), item(2)) == ["s0"]
    assert joined(grouping, item(0), item(1), item(2, **{state: 1}), *map(item, range(3, 9))) == ["s0", "s1"]


def test_trials_are_joined_to_nothing() -> None:
    assert joined(Grouping(seconds=0.0001), item(0, "trial"), *map(item, range(1, 9))) == ["s0"]


def test_a_group_is_one_call_with_a_request_for_each() -> None:
    group = Grouping(seconds=0.05).join(item(0), ready(*map(item, range(1, 6))), num_processes=1)
    method, requests = call_of(group)
    assert method == "run_group"
    assert [request.items for request in requests] == [(0,), (1,), (2,)]  # type: ignore[attr-defined]  # a tuple
    assert call_of(item(4))[0] == "run"
    assert call_of(item(4, "trial"))[0] == "run_trial"


def test_each_shard_of_a_group_has_its_own_result() -> None:
    group = WorkItem(mode="group", pending=item(0).pending, positions=(0,), group=(item(0), item(1)))
    made = stored()
    report = FailureReport(failure=FailureClass.USER_CODE, summary="bad", place="", traceback="")
    answers = TimedShard(made, 0.4), report
    first, second = results_of(CallResult(key=group, outcome=answers, seconds=3.0, process=7))
    assert (first.key, first.outcome, first.error, first.seconds) == (group.group[0], made, None, 1.5)
    assert first.work_s == 0.4
    assert (second.key, second.outcome, second.error, second.process) == (group.group[1], None, report, 7)
    lost = CallResult(key=group, outcome=None, error=report, died=True)
    assert results_of(lost) == [lost]
