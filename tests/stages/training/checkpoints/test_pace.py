"""How often checkpoints are made: by their cost, and without influence on what is trained."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.artifact import JSON, FileEntry
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.stage import RetryPolicy
from stages.training.checkpoints import pace as pace_module
from stages.training.checkpoints.pace import FIRST_S, MAX_S, CheckpointPace, best_interval_s, mean_uptime_s
from stages.training.config import LoopConfig, OptimizerConfig
from stages.training.loop import run_worker
from tests.stages.training.test_loop import Recorder, checkpoints, single_worker, trained
from tests.stages.training.toy import ToyProgram, ToyTask

HOUR_S = 3600.0
LOOP = LoopConfig(
    steps=12, micro_batches_per_step=4, seed=5, skip_window=5, optimizer=OptimizerConfig(warmup_share=0.2)
)


@pytest.mark.parametrize(
    ("stall_s", "write_s", "uptime_s", "interval_s"),
    [
        (5.0, 60.0, 10.84 * HOUR_S, 624.7),  # 512 GPUs, weights and optimizer of 7B: ten minutes
        (0.01, 0.1, 24 * HOUR_S, 41.6),  # a laptop
        (60.0, 90.0, 3 * HOUR_S, 1138.4),  # a full copy that stops all workers
        (0.01, 300.0, 24 * HOUR_S, 600.0),  # cheap to take, slow to write: never faster than it is written
        (30.0, 40.0, 1000 * HOUR_S, MAX_S),
        (50.0, 1.0, 20.0, 20.0),  # fails faster than it saves
        (0.0, 0.0, HOUR_S, 0.0),
    ],
)
def test_the_interval_is_youngs_within_bounds(
    stall_s: float, write_s: float, uptime_s: float, interval_s: float
) -> None:
    found = best_interval_s(stall_s=stall_s, write_s=write_s, uptime_s=uptime_s)
    assert found == pytest.approx(interval_s, rel=1e-3)


@given(stall_s=st.floats(1e-3, 100), uptime_s=st.floats(60, 1e7), factor=st.floats(0.3, 3))
def test_no_other_interval_costs_less(stall_s: float, uptime_s: float, factor: float) -> None:
    """Cost of a second: stalls, and half an interval lost with each failure."""

    def cost(interval_s: float) -> float:
        return stall_s / interval_s + interval_s / 2 / uptime_s

    best = best_interval_s(stall_s=stall_s, write_s=0.0, uptime_s=uptime_s)
    if best < min(MAX_S, uptime_s):
        assert cost(best) <= cost(best * factor) * (1 + 1e-9)


@pytest.mark.parametrize(("workers", "hours"), [(1, 23.9), (8, 23.5), (512, 10.8), (16384, 0.6)])
def test_more_workers_fail_more_often(workers: int, hours: float) -> None:
    assert mean_uptime_s(workers) / HOUR_S == pytest.approx(hours, abs=0.05)
    assert mean_uptime_s(360_000_000) == pytest.approx(1 / (1 / 86_400 + 10), rel=1e-7)


def test_the_interval_follows_the_measured_times() -> None:
    now = [0.0]
    pace = CheckpointPace(RetryPolicy(mean_uptime_h=10), workers=512, clock=lambda: now[0])
    due = []
    for at in range(1, 100):
        now[0] = at
        due += [at] if pace.is_due(at, is_writing=False) else []
    assert due[0] == FIRST_S
    now[0] = 100.0
    pace.record_stall(2.0)
    assert pace.interval_s == pytest.approx(math.sqrt(2 * 2.0 * 10 * HOUR_S))
    pace.record_write(400.0)
    assert pace.interval_s == 800.0
    now[0] = 900.0
    assert not pace.is_due(7, is_writing=True)
    assert pace.is_due(7, is_writing=False)


def test_configured_steps_are_respected() -> None:
    pace = CheckpointPace(RetryPolicy(checkpoint_every=3), workers=1)
    assert [step for step in range(1, 10) if pace.is_due(step, is_writing=True)] == [3, 6, 9]


class RecordingCheckpoints:
    """Records after which steps a checkpoint was committed."""

    def __init__(self, inner: StoredCheckpoints) -> None:
        self.inner = inner
        self.latest, self.prune, self.retract_after = inner.latest, inner.prune, inner.retract_after
        self.begin, self.write_part = inner.begin, inner.write_part
        self.steps: list[int] = []

    def conclude(self, step: int, draft: str, files: Sequence[FileEntry], meta: Mapping[str, JSON]) -> bool:
        self.steps.append(step)
        return self.inner.conclude(step, draft, files, meta)


def train(folder: Path, task: ToyTask, retry: RetryPolicy) -> tuple[list[int], Recorder]:
    store, recorder = RecordingCheckpoints(checkpoints(folder)), Recorder()
    run_worker(ToyProgram, task, LOOP, retry=retry, checkpoints=store, reporter=recorder, worker=single_worker())
    return store.steps, recorder


def test_a_training_saves_more_often_where_more_fails_and_trains_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace_module, "FIRST_S", 0.05)
    task = ToyTask(pause_s=0.05)  # 0.2 s for a step
    rarely, calm = train(tmp_path / "rarely", task, RetryPolicy(mean_uptime_h=1000))
    often, _ = train(tmp_path / "often", task, RetryPolicy(mean_uptime_h=1e-6))
    assert rarely[-1] == often[-1] == LOOP.steps
    assert len(rarely) == 2  # the first measures, the last is the result
    assert len(often) >= 4
    intervals = [metrics["checkpoint_interval_s"] for _, metrics in calm.steps if "checkpoint_interval_s" in metrics]
    assert intervals
    assert all(value > 1 for value in intervals)
    expected = trained(tmp_path / "rarely")
    assert all(tensor.equal(expected[name]) for name, tensor in trained(tmp_path / "often").items())


@pytest.mark.parametrize("poison", [(7,), (8, 12), (3, 4), (11,)])
def test_skipped_data_do_not_depend_on_when_checkpoints_were_made(tmp_path: Path, poison: tuple[int, ...]) -> None:
    """Not even where a checkpoint was made within the window, or none before it."""
    task, results = ToyTask(poison_data=poison), []
    for every in (1, 2, 3, 5, 7, 100):
        folder = tmp_path / str(every)
        _, recorder = train(folder, task, RetryPolicy(checkpoint_every=every))
        results.append((recorder.steps[-1][1]["data_steps_skipped"], trained(folder)))
    for skipped, state in results[1:]:
        assert skipped == results[0][0]
        assert all(tensor.equal(results[0][1][name]) for name, tensor in state.items())
