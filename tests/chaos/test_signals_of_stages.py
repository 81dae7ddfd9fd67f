"""SIGTERM and SIGHUP of a driver whose work is in other processes: a training, a data stage, a Ray that is starting.

Exit code 85, and what was committed is not done again. `test_signals.py` has the phases of the driver itself.
"""

import signal
import time
from pathlib import Path

import pytest

from orchestrator.cluster.ray_cluster import SESSION_PREFIX
from orchestrator.errors import EXIT_REQUEUE
from tests.chaos.cluster_driver import CHECKPOINT_EVERY, LOOP, lines
from tests.chaos.cluster_runs import consumed, digests, finish, start, wait_for
from tests.orchestrator.shard_map.squares_driver import NUM_SHARDS

pytestmark = pytest.mark.timeout(600)

TOY, SQUARES = "train_toy", "squares"
PER_STEP = LOOP.micro_batches_per_step


@pytest.fixture(autouse=True)
def _paced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_PAUSE_S", "0.05")
    monkeypatch.setenv("SQUARES_PAUSE_S", "0.5")
    monkeypatch.setenv("ILLUME_STOP_GRACE_S", "0")


@pytest.mark.parametrize(
    ("cluster", "workers", "number"),
    [
        ("processes", 2, signal.SIGTERM),
        pytest.param("processes", 2, signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param("local", 1, signal.SIGTERM, marks=[pytest.mark.slow, pytest.mark.ray]),  # Ray Train's workers
    ],
)
def test_a_training_stops_with_a_checkpoint_and_loses_no_step(
    cluster: str, workers: int, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cluster == "local":
        monkeypatch.setenv("CLUSTER_PAUSE_S", "0.3")
    root = tmp_path / "run"
    driver = start(root, cluster, workers, stages=TOY)
    wait_for(lambda: len(lines(root / "steps")) >= (CHECKPOINT_EVERY + 2) * PER_STEP, driver)
    driver.send_signal(number)
    code, text = finish(driver)
    assert code == EXIT_REQUEUE, text
    assert len(lines(root / "steps")) < LOOP.steps * PER_STEP
    digests(start(root, cluster, workers, stages=TOY))
    assert len(lines(root / "steps")) == LOOP.steps * PER_STEP
    assert len(consumed(root)) == LOOP.steps


@pytest.mark.slow
def test_a_checkpoint_that_is_not_written_in_time_is_dropped_and_the_one_before_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store hangs in the second checkpoint, and Kubernetes would kill the driver."""
    root, reached = tmp_path / "run", tmp_path / "reached"
    reached.mkdir()
    with monkeypatch.context() as armed:
        armed.setenv("ILLUME_FAILPOINTS", f"checkpoint.files=hold:{tmp_path / 'never'}@2")
        armed.setenv("ILLUME_FAILPOINTS_ONCE", str(reached))
        armed.setenv("ILLUME_STOP_GRACE_S", "4")
        driver = start(root, "processes", 1, stages=TOY)
        wait_for(lambda: (reached / "checkpoint.files").exists(), driver)
        driver.send_signal(signal.SIGTERM)
        code, text = finish(driver)
    assert code == EXIT_REQUEUE, text
    digests(start(root, "processes", 1, stages=TOY))
    again = len(lines(root / "steps")) - LOOP.steps * PER_STEP
    assert 0 < again <= 2 * CHECKPOINT_EVERY * PER_STEP, "the steps since the first checkpoint, while the second hung"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_data_stage_finishes_its_running_shards_and_makes_none_twice(number: signal.Signals, tmp_path: Path) -> None:
    root = tmp_path / "run"
    driver = start(root, "local", 1, stages=SQUARES)
    wait_for(lambda: len(lines(root / "worked")) >= 3, driver)
    driver.send_signal(number)
    code, text = finish(driver)
    assert code == EXIT_REQUEUE, text
    assert len(lines(root / "worked")) < NUM_SHARDS
    digests(start(root, "local", 1, stages=SQUARES))
    assert sorted(lines(root / "worked")) == [f"s{number}" for number in range(NUM_SHARDS)]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.0, 0.5, 2.0])
def test_a_ray_that_is_starting_is_no_reason_to_die_otherwise(wait_s: float, tmp_path: Path) -> None:
    root = tmp_path / "run"
    driver = start(root, "local", 1, stages=SQUARES)
    wait_for(lambda: any(Path("/tmp").glob(f"{SESSION_PREFIX}{driver.pid}-*")), driver)
    time.sleep(wait_s)
    driver.send_signal(signal.SIGTERM)
    code, text = finish(driver)
    assert code == EXIT_REQUEUE, text
    digests(start(root, "local", 1, stages=SQUARES))
    assert sorted(lines(root / "worked")) == [f"s{number}" for number in range(NUM_SHARDS)]
