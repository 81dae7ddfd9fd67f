"""The driver of a training: what it passes on, and what it raises when the workers end; groups are doubles."""

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from orchestrator.errors import CancelledError, HangError, NodeLostError, NumericError
from orchestrator.stage import RetryPolicy
from stages.training.config import LoopConfig
from stages.training.driver import run_group, train
from stages.training.workers.reports import Report
from stages.training.workers.worker import Steps
from tests.stages.training.stage_context import TrainingContext
from tests.stages.training.toy import ToyProgram, ToyTask

LOOP = LoopConfig(steps=4, micro_batches_per_step=2, seed=1)


class Group:
    """Workers that report a list of steps at each poll and then end; a hanging one ends when it is killed."""

    def __init__(
        self,
        polls: list[Steps],
        *,
        error: BaseException | None = None,
        reported: Exception | None = None,
        hangs: bool = False,
    ) -> None:
        self._polls, self._error, self._reported, self._hangs = polls, error, reported, hangs
        self.killed: list[int] = []
        self.stops: list[bool] = []
        self.silent = False
        self.waits: list[str] = []
        self.processes = {0: ("a", 11), 1: ("b", 12)}

    def wait(self, timeout_s: float) -> bool:
        return not self._polls and not (self._hangs and not self.killed)

    def collect(self, stop: bool) -> Report | None:
        self.stops.append(stop)
        if self.silent:
            return None
        steps = self._polls.pop(0) if self._polls else []
        return Report(steps=steps, processes=self.processes, error=self._reported)

    def stacks(self, processes: Mapping[int, tuple[str, int]], *, kill: bool) -> Mapping[int, str]:
        if kill:
            self.killed += [pid for _, pid in processes.values()]
        return {rank: f"stacks of {pid} on {node_id}" for rank, (node_id, pid) in processes.items()}

    def has_spare(self, nodes: Collection[str]) -> bool:
        return False

    def waiting_for(self) -> str:
        return self.waits.pop(0) if self.waits else ""

    def error(self) -> BaseException | None:
        return self._error

    def explain(self, error: BaseException, processes: Mapping[int, tuple[str, int]]) -> Exception:
        return NodeLostError(f"{error} {sorted(processes)}")

    def close(self) -> None: ...


def test_metrics_and_progress_are_passed_on_and_the_last_metrics_returned(tmp_path: Path) -> None:
    context = TrainingContext(tmp_path)
    group = Group([[(2, {})], [(3, {"loss": 0.5}), (4, {"loss": 0.25})]])
    assert run_group(group, LOOP, context) == {"loss": 0.25}
    assert context.tracker.metrics == [(3, {"loss": 0.5}), (4, {"loss": 0.25})]
    assert context.tracker.done == [(2, 4), (3, 4), (4, 4)]  # continuing from step 2 is progress without metrics


def test_what_was_reported_after_the_last_poll_is_not_lost(tmp_path: Path) -> None:
    context = TrainingContext(tmp_path)

    class Late(Group):
        def wait(self, timeout_s: float) -> bool:
            return True

    assert run_group(Late([[(4, {"loss": 0.25})]]), LOOP, context) == {"loss": 0.25}


def test_a_stop_request_reaches_the_workers(tmp_path: Path) -> None:
    group = Group([[(1, {})]])
    run_group(group, LOOP, TrainingContext(tmp_path, stop=True))
    assert group.stops == [True, True]


def test_a_worker_s_own_error_wins_over_what_its_group_raised(tmp_path: Path) -> None:
    failed = RuntimeError("rank 1: connection closed by peer")
    with pytest.raises(NumericError, match="loss nan") as raised:
        run_group(Group([], error=failed, reported=NumericError("loss nan")), LOOP, TrainingContext(tmp_path))
    assert raised.value.__cause__ is failed
    with pytest.raises(NodeLostError, match=r"closed by peer \[0, 1\]") as lost:
        run_group(Group([], error=failed), LOOP, TrainingContext(tmp_path))
    assert lost.value.__cause__ is failed


def test_a_group_without_progress_is_killed_once_and_its_stacks_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = TrainingContext(tmp_path, retry=RetryPolicy(hang_after_s=1e-9))
    group = Group([], hangs=True, error=RuntimeError("a worker died"))
    with pytest.raises(HangError, match="toy: no training step ended for 0 s; the workers were killed"):
        run_group(group, LOOP, context)
    assert group.killed == [11, 12]
    assert "stacks of hung worker 1:\nstacks of 12 on b" in caplog.text


def test_waiting_for_the_workers_to_start_is_not_a_hang(tmp_path: Path) -> None:
    context = TrainingContext(tmp_path, retry=RetryPolicy(hang_after_s=1e-9))
    group = Group([[], [], []])
    group.processes = {}
    assert run_group(group, LOOP, context) == {}
    assert group.killed == []


def test_what_the_workers_wait_for_is_recorded_once_and_so_is_its_end(tmp_path: Path) -> None:
    context = TrainingContext(tmp_path)
    group = Group([[], [], [], []])
    group.processes = {}
    group.waits = ["", "8 GPUs; free: 4", "8 GPUs; free: 2"]
    run_group(group, LOOP, context)
    assert context.tracker.events == [("waiting", {"for": "8 GPUs; free: 4"}), ("waited", {"for": "8 GPUs; free: 2"})]


def test_a_stop_does_not_wait_for_workers_that_wait_for_a_node(tmp_path: Path) -> None:
    group = Group([[], [], []])
    group.processes = {}
    with pytest.raises(CancelledError, match="toy: stopped before its workers had started"):
        run_group(group, LOOP, TrainingContext(tmp_path, stop=True))


def test_reports_that_cannot_be_had_are_not_a_hang(tmp_path: Path) -> None:
    context = TrainingContext(tmp_path, retry=RetryPolicy(hang_after_s=1e-9))
    group = Group([])
    group.silent = True
    assert run_group(group, LOOP, context) == {}
    assert group.killed == []


def test_the_last_checkpoint_and_the_progress_file_are_the_result(tmp_path: Path) -> None:
    context = TrainingContext(tmp_path)
    result = train(ToyProgram, ToyTask(), LOOP, context)
    assert result.checkpoint.step == LOOP.steps
    assert result.metrics["fit/loss"] > 0
    assert context.facts == {"spreads": [{"from_step": 0, "workers": 1, "strategy": "ddp"}]}
    assert (context.output / "state.json").read_bytes() == (result.checkpoint.path / "state.json").read_bytes()
    again = train(ToyProgram, ToyTask(batch=99), LOOP, TrainingContext(tmp_path, plain_training_workers=False))
    assert (again.checkpoint.step, again.metrics) == (LOOP.steps, {})  # done already: no worker is started


def test_workers_that_end_early_without_an_error_were_stopped_or_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.training.driver._start_group", lambda settings, context: Group([[(3, {})]]))
    with pytest.raises(CancelledError, match="toy: stopped at step 0 of 4"):
        train(ToyProgram, ToyTask(), LOOP, TrainingContext(tmp_path, stop=True))
    with pytest.raises(NodeLostError, match="toy: the workers ended before step 4 without an error"):
        train(ToyProgram, ToyTask(), LOOP, TrainingContext(tmp_path))
