"""The driver's watch over its workers, with a made-up clock: hangs, silent workers, unfit nodes, preemption."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import CancelledError, HangError, NodeLostError, PreemptedError
from orchestrator.failures.classes import classify
from orchestrator.failures.failure_class import FailureClass
from orchestrator.stage import Resources, RetryPolicy
from stages.training.config import LoopConfig
from stages.training.driver import run_group
from stages.training.group_monitor import GroupMonitor
from stages.training.watching.notices import PREEMPTED, UNFIT_NODE, WORKERS, Notice
from stages.training.workers.reports import Report
from tests.stages.training.stage_context import TrainingContext
from tests.stages.training.watching.test_stacks import READING, WAITING

LOOP = LoopConfig(steps=9, micro_batches_per_step=4, seed=1)
NODES = Notice(kind=WORKERS, fields={"nodes": ["a", "b", "c", "d"]})


class Workers:
    """Four workers that report what a test gives them."""

    def __init__(self, *, spare: bool = False, error: BaseException | None = None) -> None:
        self.processes = {rank: (f"id-{rank}", 10 + rank) for rank in range(4)}
        self.report: dict[str, Any] = {}
        self.texts = {rank: WAITING.format(number=rank) for rank in range(4)}
        self.killed: list[bool] = []
        self.has_ended = True
        self._spare, self._error = spare, error

    def wait(self, timeout_s: float) -> bool:
        return self.has_ended

    def collect(self, stop: bool) -> Report:
        content, self.report = self.report, {}
        return Report(**{"steps": [], "error": None, **content}, processes=self.processes)

    def stacks(self, processes: Mapping[int, tuple[str, int]], *, kill: bool) -> Mapping[int, str]:
        self.killed.append(kill)
        return {rank: self.texts[rank] for rank in processes}

    def has_spare(self, nodes: Collection[str]) -> bool:
        return self._spare

    def waiting_for(self) -> str:
        return ""

    def error(self) -> BaseException | None:
        return self._error

    def explain(self, error: BaseException, processes: Mapping[int, tuple[str, int]]) -> Exception:
        return RuntimeError(str(error))

    def close(self) -> None: ...


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def context_of(folder: Path) -> TrainingContext:
    return TrainingContext(folder, resources=Resources(workers=4), retry=RetryPolicy(hang_after_s=1000.0))


def monitor_of(workers: Workers, context: TrainingContext, clock: Clock) -> GroupMonitor:
    return GroupMonitor(workers, LOOP, context, "tokens", clock)


def test_stacks_are_compared_at_half_time_and_the_workers_are_killed_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers, clock, context = Workers(), Clock(), context_of(tmp_path)
    workers.texts[2] = READING
    workers.report = {"steps": [(7, {})], "notices": [NODES], "newest_steps": {0: 7, 1: 7, 2: 5, 3: 7}}
    monitor = monitor_of(workers, context, clock)
    for clock.now in (0.0, 499.0, 501.0, 700.0, 999.0):
        monitor.poll()
    assert workers.killed == [False]  # looked at once
    assert "no training step ended for 501 s after step 7\n" in monitor.suspected
    assert "worker 2 on c (differs): read (reader.py:90)" in monitor.suspected
    assert "newest step reported, where it is behind: worker 2 (5)" in monitor.suspected
    assert context.tracker.events == [("hang_suspected", {"step": 7, "workers": [2], "message": monitor.suspected})]
    assert monitor.hung is None
    clock.now = 1001.0
    monitor.poll()
    assert workers.killed == [False, True]
    assert monitor.hung is not None
    assert "no training step ended for 1001 s; the workers were killed" in monitor.hung
    assert caplog.text.count("stacks of hung worker 0, 1, 3") == 2


def test_a_step_ends_the_suspicion(tmp_path: Path) -> None:
    workers, clock = Workers(), Clock()
    monitor = monitor_of(workers, context_of(tmp_path), clock)
    for clock.now in (0.0, 600.0):
        monitor.poll()
    assert monitor.suspected
    workers.report = {"steps": [(1, {})]}
    clock.now = 610.0
    monitor.poll()
    assert not monitor.suspected
    clock.now = 1200.0
    monitor.poll()
    assert workers.killed == [False, False]


def test_a_worker_that_never_reported_is_named(tmp_path: Path) -> None:
    workers, clock = Workers(), Clock()
    del workers.processes[3]
    monitor = monitor_of(workers, context_of(tmp_path), clock)
    for clock.now in (0.0, 600.0):
        monitor.poll()
    assert "never heard of: worker 3" in monitor.suspected


def test_a_collective_that_gives_up_is_a_hang_with_what_the_stacks_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(error=RuntimeError("[gloo] Timed out waiting 800000ms for recv operation to complete"))
    workers.texts[1] = READING
    context = context_of(tmp_path)
    monkeypatch.setattr("stages.training.watching.timeouts.SUSPECT_SHARE", 0.0)
    with pytest.raises(HangError, match=r"(?s)toy: a collective operation gave up: .*worker 1 on id-1 \(differs\)"):
        run_group(workers, LOOP, context)
    quick = Workers(error=RuntimeError("connection closed by peer"))
    with pytest.raises(RuntimeError, match="closed by peer"):
        run_group(quick, LOOP, context)


@pytest.mark.parametrize(("newest", "is_named"), [(-1, False), (0, True), (8, True), (9, False), (10, False)])
def test_a_worker_is_behind_if_it_is_more_than_a_step_behind_and_has_begun(
    newest: int, is_named: bool, tmp_path: Path
) -> None:
    workers, clock = Workers(), Clock()
    workers.report = {"steps": [(10, {})], "newest_steps": {0: 10, 1: newest}}
    monitor = monitor_of(workers, context_of(tmp_path), clock)
    monitor.poll()
    workers.report = {"newest_steps": {0: 10}}  # a later report need not name all
    clock.now = 600.0
    monitor.poll()
    assert (f"worker 1 ({newest})" in monitor.suspected) == is_named


def test_a_group_that_waits_says_so_once_and_is_not_suspected_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, clock, context = Workers(), Clock(), context_of(tmp_path)
    workers.processes, known = {}, workers.processes
    monkeypatch.setattr(workers, "waiting_for", lambda: "2 GPUs")
    monitor = monitor_of(workers, context, clock)
    for clock.now in (0.0, 600.0, 2000.0):
        monitor.poll()
    assert (workers.killed, monitor.hung) == ([], None)
    workers.processes = known
    for clock.now in (2001.0, 2400.0):
        monitor.poll()
    assert context.tracker.events == [("waiting", {"for": "2 GPUs"}), ("waited", {"for": "2 GPUs"})]
    assert (workers.killed, monitor.hung) == ([], None)  # its time counts from its first process on
    clock.now = 3002.0
    monitor.poll()
    assert monitor.hung is not None


def test_a_stop_before_the_workers_have_started_ends_the_attempt(tmp_path: Path) -> None:
    workers, context = Workers(), context_of(tmp_path)
    monitor = monitor_of(workers, context, Clock())
    context.stop = True
    monitor.poll()  # they run, and are asked to stop
    workers.processes = {}
    with pytest.raises(CancelledError, match="toy: stopped before its workers had started"):
        monitor.poll()


def test_a_step_without_trained_data_keeps_the_metrics_of_the_last_one(tmp_path: Path) -> None:
    workers, context = Workers(), context_of(tmp_path)
    workers.report = {"steps": [(1, {"loss": 2.0, "lr": 1.0}), (2, {}), (3, {"lr": 0.5})]}
    monitor = monitor_of(workers, context, Clock())
    monitor.poll()
    assert monitor.metrics == {"loss": 2.0, "lr": 0.5}
    assert context.tracker.metrics == [(1, {"loss": 2.0, "lr": 1.0}), (3, {"lr": 0.5})]
    assert context.tracker.done == [(step, LOOP.steps) for step in (1, 2, 3)]


UNFIT = Notice(kind=UNFIT_NODE, fields={"worker": 1, "node": "b", "what": "its clock is +37.0 s off the others"})


def test_an_unfit_node_is_left_out_where_there_is_another(tmp_path: Path) -> None:
    workers, context = Workers(spare=True), context_of(tmp_path)
    workers.report = {"notices": [NODES, UNFIT]}
    with pytest.raises(NodeLostError, match=r"toy: unfit nodes are left out: worker 1 on b: its clock is \+37.0 s off"):
        run_group(workers, LOOP, context)
    assert workers.killed == [True]
    offence = {"node": "b", "what": "worker 1 on b: its clock is +37.0 s off the others", "certain": True}
    assert context.tracker.events[-1] == ("node_offence", offence)


def test_without_another_node_training_goes_on_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workers, context = Workers(), context_of(tmp_path)
    workers.report = {"notices": [NODES, UNFIT], "steps": [(9, {"loss": 1.0})]}
    assert run_group(workers, LOOP, context) == {"loss": 1.0}
    assert "no node to spare, training goes on with b" in caplog.text
    assert [kind for kind, _ in context.tracker.events] == ["unfit_node"]


def test_that_no_node_is_to_spare_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workers = Workers()
    monitor = monitor_of(workers, context_of(tmp_path), Clock())
    for _ in range(3):
        workers.report = {"notices": [NODES, UNFIT]}
        monitor.poll()
    assert caplog.text.count("no node to spare") == 1


def test_workers_that_left_because_of_a_preemption_are_tried_again_without_a_count(tmp_path: Path) -> None:
    left = Notice(kind=PREEMPTED, fields={"step": 6, "message": "nodes are taken away: b"})
    workers = Workers(error=RuntimeError("rank 1: connection closed by peer"))
    workers.report = {"notices": [left]}
    with pytest.raises(PreemptedError, match="taken away: b; a checkpoint was made after step 6, and no") as raised:
        run_group(workers, LOOP, context_of(tmp_path))
    assert classify(raised.value) is FailureClass.PREEMPTED


def test_the_line_of_a_step_has_the_node_of_the_slowest_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    workers = Workers()
    metrics = {
        "workers/slowest": 2.0,
        "workers/own_step_s_median": 0.4,
        "workers/own_step_s_slowest": 0.6,
        "system/cpu_utilization_percentage": 7.0,
    }
    workers.report = {"notices": [NODES], "steps": [(1, metrics)]}
    found = run_group(workers, LOOP, context_of(tmp_path))
    assert "own part 0.400 s, slowest 0.600 s (worker 2 on c)" in caplog.text
    assert found.keys() == metrics.keys() - {"system/cpu_utilization_percentage"}  # no result of the stage
