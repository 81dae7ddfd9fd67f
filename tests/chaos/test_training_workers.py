"""Training workers, or their driver, die or hang: the run continues from a checkpoint to the same bytes.

The workers are plain processes; everything behind their start is the code that Ray Train's workers run too.
"""

import re
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.ray_cluster import Cluster, LocalRay
from orchestrator.errors import CancelledError
from orchestrator.execution.stop_events import StopEvents
from orchestrator.failures.failure_class import FailureClass
from orchestrator.planning.plan import make_plan
from orchestrator.planning.stage_identity import PlanView
from orchestrator.workspace import Workspace
from tests.chaos.cluster_driver import CHECKPOINT_EVERY, LOOP, lines, recipe
from tests.chaos.cluster_runs import consumed, digests, failure_classes, finish, start, wait_for, weights

TOY = "train_toy"
MICRO_BATCHES = LOOP.steps * LOOP.micro_batches_per_step
FIRST_CHECKPOINT = (CHECKPOINT_EVERY + 1) * LOOP.micro_batches_per_step  # micro-batches, in which its step is done


@dataclass(frozen=True)
class Quiet:
    root: Path
    digests: dict[str, str]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_PAUSE_S", "0.02")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    """An undisturbed run on two workers."""
    root = tmp_path_factory.mktemp("workers") / "quiet"
    found = digests(start(root, "processes", 2, stages=TOY))
    assert len(consumed(root)) == LOOP.steps
    assert len(lines(root / "steps")) == MICRO_BATCHES
    return Quiet(root=root, digests=found)


def template_of(driver: subprocess.Popen[str]) -> psutil.Process:
    """The process whose copies the workers are."""
    children = psutil.Process(driver.pid).children()
    [template] = [child for child in children if "stages.training.workers.template" in " ".join(child.cmdline())]
    return template


def workers_of(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    return template_of(driver).children()


def check_end(root: Path, quiet: Quiet) -> None:
    """Data as in the undisturbed run; at most the interval of a checkpoint twice, and one that was being written."""
    weights(root, stages=TOY)  # and the invariants
    assert consumed(root) == consumed(quiet.root)
    again = len(lines(root / "steps")) - MICRO_BATCHES
    assert 0 <= again <= (2 * CHECKPOINT_EVERY + 1) * LOOP.micro_batches_per_step


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_costs_at_most_the_steps_since_its_checkpoint(rank: int, quiet: Quiet, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    driver = start(root, "processes", 2, stages=TOY)
    wait_for(lambda: len(lines(root / "steps")) >= FIRST_CHECKPOINT, driver)
    (root / "hold").touch()
    workers_of(driver)[rank].kill()
    wait_for(lambda: bool(failure_classes(root)), driver)
    (root / "hold").unlink()
    assert digests(driver) == quiet.digests
    assert set(failure_classes(root)) == {FailureClass.NODE_LOST}
    check_end(root, quiet)


def test_workers_end_with_their_killed_driver_and_the_next_one_continues(quiet: Quiet, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    driver = start(root, "processes", 2, stages=TOY)
    wait_for(lambda: len(lines(root / "steps")) >= FIRST_CHECKPOINT, driver)
    template, workers = template_of(driver), workers_of(driver)
    assert len(workers) == 2
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs([template, *workers], timeout=60)
    assert alive == []
    assert digests(start(root, "processes", 2, stages=TOY)) == quiet.digests
    assert set(failure_classes(root)) == {FailureClass.CONTROLLER_LOST}
    check_end(root, quiet)


def test_workers_that_hang_are_killed_with_their_stacks_logged_and_tried_again(
    quiet: Quiet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "broken"
    monkeypatch.setenv("CLUSTER_HANG_AFTER_S", "20")
    driver = start(root, "processes", 2, stages=TOY)
    wait_for(lambda: len(lines(root / "steps")) >= FIRST_CHECKPOINT, driver)
    (root / "hold").touch()
    wait_for(lambda: bool(failure_classes(root)), driver)
    (root / "hold").unlink()
    assert digests(driver) == quiet.digests
    assert set(failure_classes(root)) == {FailureClass.HANG}
    logs = "".join(path.read_text() for path in (root / "illume").rglob("*.log"))
    assert re.search(r"stacks of hung worker (0, )?1:", logs)  # both may wait at the same line
    assert "in forward" in logs  # the frame that waits
    check_end(root, quiet)


def test_a_clean_stop_reaches_the_workers_and_is_continued(quiet: Quiet, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    stop = threading.Event()
    cluster = Cluster(LocalRay(plain_training_workers=True))
    with Workspace.open(root=root / "illume", tracking_url="none", cluster=cluster) as workspace:
        plan = make_plan(recipe(str(root), 2, TOY), PlanView(find=workspace.artifacts.find))

        def stop_later() -> None:
            while len(lines(root / "steps")) < 2 * LOOP.micro_batches_per_step:
                time.sleep(0.01)
            stop.set()

        root.mkdir(exist_ok=True)
        threading.Thread(target=stop_later, daemon=True).start()
        with pytest.raises(CancelledError):
            workspace.run_recipe(plan, stops=StopEvents(stop=stop))
    made = len(lines(root / "steps"))
    assert made < MICRO_BATCHES
    assert digests(start(root, "processes", 2, stages=TOY)) == quiet.digests
    assert len(lines(root / "steps")) == MICRO_BATCHES  # nothing was done twice


def test_non_finite_data_end_a_run_with_their_names_and_it_is_continued_without_them(
    quiet: Quiet, tmp_path: Path
) -> None:
    """Window after window is skipped, by both workers alike, until the limit is reached."""
    root = tmp_path / "broken"
    root.mkdir()
    (root / "poison").write_text("\n".join(map(str, range(6, 60))))
    code, text = finish(start(root, "processes", 2, stages=TOY))
    assert code == 1, text
    assert set(failure_classes(root)) == {FailureClass.NUMERIC}
    for said in ("loss nan", "at learning rates 0.0", "samples sample-", "2 windows"):
        assert said in text, text
    (root / "poison").unlink()
    assert digests(start(root, "processes", 2, stages=TOY)) == quiet.digests  # no skip was kept that did not help
    weights(root, stages=TOY)  # and the invariants
