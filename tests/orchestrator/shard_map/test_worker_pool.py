"""What the pool says of a process that is gone. Pools with real processes are tested in `test_map_shards.py`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.capacity import WorkerResources
from orchestrator.errors import NodeLostError
from orchestrator.failures.failure_class import FailureClass
from orchestrator.logs.worker_log import WorkerLogs
from orchestrator.shard_map.shard_host import HostInfo, HostSettings
from orchestrator.shard_map.worker_pool import CallResult, IdleWorkers, WorkerPool
from orchestrator.store.store import open_store

PID, HANG_S = 71, 0.05


class Cluster:
    """Processes whose start works and whose calls die."""

    def __init__(self, *, starts: bool = True) -> None:
        self.starts = starts

    def spawn(self, *_arguments: object, **_options: object) -> "Cluster":
        return self

    def call(self, method: str, *_arguments: object) -> "Call":
        return Call(dies=method != "start" or not self.starts)

    def wait(self, calls: Sequence["Call"], _timeout_s: float) -> list["Call"]:
        return list(calls)

    def kill(self) -> None: ...


class Call:
    def __init__(self, *, dies: bool) -> None:
        self.dies = dies

    def result(self) -> HostInfo:
        if self.dies:
            raise NodeLostError("the actor died")
        return HostInfo(pid=PID, host="node-1")


def death(tmp_path: Path, *, works_s: float, starts: bool = True, logs: WorkerLogs | None = None) -> CallResult[Any]:
    """The result of a call whose process dies after so long."""
    settings = HostSettings(
        ledger=ShardLedger(open_store(tmp_path / "store"), tmp_path / "cache"),
        stage_kind="work",
        attempt=AttemptId.of("run", "work", epoch=1, number=1),
        hang_after_s=HANG_S,
        scratch=tmp_path,
        logs=logs,
    )
    pool: WorkerPool[str] = WorkerPool(
        Cluster(starts=starts),  # type: ignore[arg-type]  # a double
        settings,
        None,  # type: ignore[arg-type]  # not used
        size=1,
        resources=WorkerResources(cpus=1),
        idle_workers=IdleWorkers(),
    )
    pool.grow(1)
    if not starts:
        time.sleep(works_s)
        return pool.wait(1)[0]
    assert pool.wait(1)[0].error is None
    process = pool.idle_process()
    assert process is not None
    pool.submit("shard", "run", None, process)
    time.sleep(works_s)
    return pool.wait(1)[0]


@pytest.mark.parametrize(
    ("log", "works_s", "expected"),
    [
        ("shard s1: done\nTimeout (0:00:01)!\nThread 0x1", 2 * HANG_S, FailureClass.HANG),
        ("shard s1: done\n", 2 * HANG_S, FailureClass.NODE_LOST),  # killed at long work that made progress
        ("", 0.0, FailureClass.NODE_LOST),
    ],
)
def test_a_process_that_was_killed_at_work_did_not_hang(
    tmp_path: Path, log: str, works_s: float, expected: FailureClass
) -> None:
    (tmp_path / f"work-1.worker-{PID}.log").write_text(log)
    store = open_store(tmp_path / "store")
    logs = WorkerLogs(store=store, folder="logs", stem=str(tmp_path / "work-1"), scratch=tmp_path)
    result = death(tmp_path, works_s=works_s, logs=logs)
    assert result.died
    assert result.error is not None
    assert result.error.failure is expected


def test_without_its_log_a_process_hung_if_it_died_when_a_hung_one_ends_itself(tmp_path: Path) -> None:
    result = death(tmp_path, works_s=2 * HANG_S)
    assert result.error is not None
    assert result.error.failure is FailureClass.HANG
    assert result.place == f"pid {PID} on node-1"


def test_waiting_for_a_slow_start_is_no_hang(tmp_path: Path) -> None:
    result = death(tmp_path, works_s=2 * HANG_S, starts=False)
    assert result.key is None
    assert result.error is not None
    assert result.error.failure is FailureClass.NODE_LOST
