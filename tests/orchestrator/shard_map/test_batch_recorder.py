"""When the shards of a group are recorded, and what a lost process takes with it."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.shard_map.batch_recorder import BATCH_S, MAX_BATCH_S, BatchRecorder

STEP_S = 0.02  # that a shard takes


@dataclass
class LaterExecutor(Executor):
    """Runs what it is given when it is told to, as a slow store would, or when the result is awaited."""

    is_fast: bool = True
    waiting: list[tuple[Future[Any], Callable[[], Any]]] = field(default_factory=list)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: function(*arguments)))
        if self.is_fast:
            self.run()
        return future

    def run(self) -> None:
        for future, call in self.waiting:
            future.set_result(call())
        self.waiting = []


@dataclass
class Process:
    """Makes shards of `STEP_S` each; `now_s` is its clock."""

    executor: LaterExecutor
    now_s: float = 0.0
    made: Any = 0  # numbers stand for outputs
    recorded: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recorder = BatchRecorder(
            self.record, self.executor, before_wait=self.executor.run, clock=lambda: self.now_s
        )

    def record(self, batch: Sequence[Any]) -> Sequence[Any]:
        self.recorded += batch
        return [f"record of {made}" for made in batch]

    def make(self) -> None:
        self.now_s += STEP_S
        self.recorder.add(self.made, self.made)
        self.made += 1

    @property
    def at_risk_s(self) -> float:
        """The work that is lost if the process is killed now."""
        return (self.made - len(self.recorded)) * STEP_S


@pytest.mark.parametrize(("is_fast", "most_s"), [(True, BATCH_S), (False, 2 * MAX_BATCH_S)])
def test_a_lost_process_takes_little_work_with_it_however_large_its_group(is_fast: bool, most_s: float) -> None:
    process = Process(LaterExecutor(is_fast=is_fast))
    for _ in range(1000):
        process.make()
        assert process.at_risk_s <= most_s + STEP_S
    assert len(process.recorded) > 0.9 * process.made


def test_each_shard_gets_its_own_result() -> None:
    process = Process(LaterExecutor(is_fast=False))
    for _ in range(77):
        process.make()
    assert process.recorder.results() == {index: f"record of {index}" for index in range(77)}


def test_without_shards_nothing_is_recorded() -> None:
    process = Process(LaterExecutor())
    assert process.recorder.results() == {}
    assert process.recorded == []
